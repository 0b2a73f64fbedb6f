"""The optimizer and its schedule, built by name."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler


def build_optimizer(groups: Iterable[dict[str, Any]], *, name: str = "ADAM", lr: float = 1e-4,
                    weight_decay: float = 0.0, momentum: float = 0.9, betas: Sequence[float] = (0.9, 0.999),
                    epsilon: float = 1e-8) -> torch.optim.Optimizer:
    """The optimizer of that name (ADAM, SGD, RMSprop) over torch's parameter groups. Raises ValueError for another."""
    common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if name == "SGD":
        return torch.optim.SGD(groups, momentum=momentum, **common)
    if name == "RMSprop":
        return torch.optim.RMSprop(groups, eps=epsilon, **common)
    if name != "ADAM":
        raise ValueError(f"optimizer {name!r}: choose ADAM, SGD or RMSprop")
    return torch.optim.Adam(groups, betas=(betas[0], betas[1]), eps=epsilon, **common)


def build_scheduler(optimizer: torch.optim.Optimizer, *, decay: int | list[int], gamma: float) -> LRScheduler:
    """Every `decay` epochs, or at the epochs that a list names, each rate is multiplied by gamma."""
    if isinstance(decay, int):
        return torch.optim.lr_scheduler.StepLR(optimizer, decay, gamma)
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, decay, gamma)


def step_scheduler(scheduler: LRScheduler) -> None:
    """Go on to the next epoch's rates."""
    with warnings.catch_warnings():
        # torch warns of a schedule that moves before the optimizer: calibration does not train, its epoch counts
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        scheduler.step()
