"""The optimizer and its schedule: built by name, and continued from a checkpoint of any version of torch."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from engine.checkpoint import demand, is_number

# what an optimizer keeps for each parameter that it has stepped
MOMENTS = {torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.RMSprop: {"step", "square_avg"},
           torch.optim.SGD: set()}


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


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Give an optimizer what a checkpoint's one kept of its steps; rates and factors stay as it was built with.

    Versions of torch differ in the keys of parameter groups, so the file's are not read. Raises ValueError where the
    state is of other parameters or another kind of optimizer.
    """
    own, groups = optimizer.state_dict()["param_groups"], state["param_groups"]
    demand([len(group["params"]) for group in own] == [len(group["params"]) for group in groups],
           "the optimizer's groups")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    demand(set(state["state"]) <= set(numbers), "the optimizer's state")
    kept = {number: _moments(state["state"][number], parameter, MOMENTS[type(optimizer)])
            for number, parameter in zip(numbers, parameters, strict=True) if number in state["state"]}
    optimizer.load_state_dict({"state": kept, "param_groups": [
        group | {"params": found["params"]} for group, found in zip(own, groups, strict=True)]})


def _moments(found, parameter, names):
    """What was kept for one parameter, checked; an older torch counts steps in a plain number."""
    step = {"step": torch.tensor(float(found["step"]))} if is_number(found.get("step")) else {}
    found = {**found, **step}
    demand(names <= found.keys(), f"an optimizer that kept {sorted(found)}")
    for name, value in found.items():
        if value is not None:
            demand(value.shape == (() if name == "step" else parameter.shape), f"{name} in the optimizer")
            demand("sq" not in name and name != "step" or bool((value >= 0).all()), f"negative {name}")
    return found
