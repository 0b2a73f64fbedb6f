"""Continue an optimizer from a checkpoint of any version of torch, checked: the network's, or a discriminator's."""

import sys
from typing import Any

import torch

# what an optimizer keeps for each parameter that it has stepped
MOMENTS = {torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.RMSprop: {"step", "square_avg"},
           torch.optim.SGD: set()}


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


def demand(right: Any, what: str) -> None:
    """Raise ValueError unless `what` is right."""
    if not right:
        raise ValueError(f"{what} can't be used")


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float holds; True and False are none."""
    return isinstance(value, float) or type(value) is int and abs(value) <= sys.float_info.max
