"""What a checkpoint holds besides its network: random state, the optimizer's, and whether all of it can be used."""

import contextlib
import math
import random
import re

import numpy as np
import torch

from utility import UserError

MOST_EPOCHS = 10**6
# what an optimizer keeps for each parameter that it has stepped
MOMENTS = {torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.RMSprop: {"step", "square_avg"},
           torch.optim.SGD: set()}


def random_state():
    """The state of every generator, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_state(state):
    """Put every generator back to what `random_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([cuda.cpu() for cuda in state["cuda"]])


@contextlib.contextmanager
def reading_parts(path):
    """Let whatever goes wrong while a checkpoint's parts are put to use become a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a file can hold anything, so anything can be raised
        raise UserError(f"{path}: holds no complete training state ({error!r:.100}); give another checkpoint, or its "
                        "weights with --refine") from error


def check_training_state(state: dict):
    """Raise ValueError, TypeError or KeyError for a checkpoint's part that loads but that training could not use."""
    epoch, batch, best = state["epoch"], state["batch"], state["best"]
    _demand(_whole(epoch) and epoch <= MOST_EPOCHS, f"epoch {epoch}")
    _demand(_whole(batch), f"batch {batch}")
    _demand(_number(best["psnr"]) and not math.isnan(best["psnr"]) and _whole(best["epoch"]), f"best {best}")
    _demand(state["scheduler"]["last_epoch"] == epoch, f"a scheduler at {state['scheduler']['last_epoch']}")
    _demand(_named(state["sums"], lambda value: torch.is_tensor(value) and value.ndim == 0), "sums of losses")
    for row in state["history"]:
        _demand(_whole(row["epoch"]) and all(_named(row[group], _number) for group in ("losses", "psnr")),
                f"a row {row} of history")
    for part in ("optimizer", "objective", "sums", "precision"):
        _demand(_finite(state[part]), f"a value in {part} that is not finite")


def _demand(right, what):
    if not right:
        raise ValueError(f"{what} can't be used")


def _whole(value):
    return type(value) is int and value >= 0


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _named(values, fits):
    """Whether `values` is a dict of fitting ones, by names that may become file names."""
    return all(re.fullmatch(r"[^/\\\0]{1,100}", name) and fits(value) for name, value in values.items())


def _finite(value):
    """Whether all numbers in nested values are finite; text, None and the like are."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    if torch.is_tensor(value):
        return bool(torch.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict):
    """Give an optimizer what a checkpoint's one kept of its steps; rates and factors stay as it was built with.

    Versions of torch differ in the keys of parameter groups, so the file's are not read. Raises ValueError where the
    state is of other parameters or another kind of optimizer.
    """
    own, groups = optimizer.state_dict()["param_groups"], state["param_groups"]
    _demand([len(group["params"]) for group in own] == [len(group["params"]) for group in groups],
            "the optimizer's groups")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    _demand(set(state["state"]) <= set(numbers), "the optimizer's state")
    kept = {number: _moments(state["state"][number], parameter, MOMENTS[type(optimizer)])
            for number, parameter in zip(numbers, parameters, strict=True) if number in state["state"]}
    optimizer.load_state_dict({"state": kept, "param_groups": [
        group | {"params": found["params"]} for group, found in zip(own, groups, strict=True)]})


def _moments(found, parameter, names):
    """What was kept for one parameter, checked; an older torch counts steps in a plain number."""
    step = {"step": torch.tensor(float(found["step"]))} if _number(found.get("step")) else {}
    found = {**found, **step}
    _demand(names <= found.keys(), f"an optimizer that kept {sorted(found)}")
    for name, value in found.items():
        fits = value is None if value is None else value.shape == (() if name == "step" else parameter.shape)
        _demand(fits, f"{name} in the optimizer")
        _demand(value is None or "sq" not in name and name != "step" or bool((value >= 0).all()), f"negative {name}")
    return found
