"""The options that a run was trained with, as its files tell them: plain values by the names of `option`."""

import ast
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from model.torch_file import read_torch_file
from quant.open import LAST, best_or_last
from utility import UserError


@dataclass(frozen=True)
class StoredOptions:
    """values: {name: value} that `source`, a checkpoint, was trained with, as far as they are known.

    trained: whether that is a checkpoint, no start that came to nothing. chosen, applied: whether its gates have been
    chosen, and whether they are applied.
    """

    source: Path
    values: dict
    chosen: bool
    applied: bool
    trained: bool = True


def read_options(path: str | Path) -> StoredOptions | None:
    """The options of one of our checkpoints, or of a run's folder; None for any other file.

    Where a run was stopped before its first checkpoint, its config.txt tells them. An older checkpoint has none of its
    own: then config.txt and the checkpoint's other parts tell them.
    Raises nothing: the code that loads the file says what is wrong with it.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path's methods it raises nothing
        path = best_or_last(path) or path
    config = path.resolve().parent.parent / "config.txt"
    if path.match(LAST) and not os.path.exists(path) and (values := _config_values(config)):
        return StoredOptions(config, values, chosen=False, applied=False, trained=False)
    try:
        state = read_torch_file(path)
    except UserError:
        return None
    if not isinstance(state, dict) or not str(state.get("format", "")).startswith("ddtb-checkpoint"):
        return None
    values = state.get("options")
    if not isinstance(values, dict):
        values = {**_config_values(config), **_options_in(state)}
    schedule = _part(state, "objective", "schedule") or {}
    return StoredOptions(path, values, chosen=schedule.get("chosen") is True, applied=state.get("phase") == "dynamic")


def _part(state, *names):
    """The dict within dicts of these names, None where there is none."""
    for name in names:
        state = state.get(name) if isinstance(state, dict) else None
    return state if isinstance(state, dict) else None


def _options_in(state):
    """What the parts of a checkpoint say of its options; parts that are missing or broken say nothing."""
    network = dict(_part(state, "network") or {})
    found = {"model": network.pop("name", None), **network, **(_part(state, "quant") or {"k_bits": 32})}
    with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
        first, *others = state["optimizer"]["param_groups"]
        found |= _options_in_group(first) | {"bound_lr": others[0].get("initial_lr") if others else None}
    scheduler, schedule = _part(state, "scheduler") or {}, _part(state, "objective", "schedule") or {}
    found["gamma"] = scheduler.get("gamma")
    with contextlib.suppress(TypeError):
        found["decay"] = scheduler.get("step_size") or sorted(scheduler.get("milestones", ())) or None
    found |= {name: schedule.get(name) for name in ("dynamic_ratio", "first_stage_epoch")}
    return {name: value for name, value in found.items() if value is not None}


def _options_in_group(group):
    """What the first group of an optimizer's parameters says; RMSprop alone has `alpha`, Adam alone `betas`."""
    kind = "ADAM" if "betas" in group else "RMSprop" if "alpha" in group else "SGD"
    momentum = group.get("momentum") if kind == "SGD" else None
    return {"optimizer": kind, "lr": group.get("initial_lr"), "betas": group.get("betas"), "epsilon": group.get("eps"),
            "momentum": momentum, "weight_decay": group["weight_decay"]}


def _config_values(path):
    """The options of the last training start that a config.txt describes; {} where there is none."""
    try:
        blocks = path.read_text(errors="replace").split("\n\n")
    except OSError:
        return {}
    trained = [block for block in blocks if "\ntest_only: False" in block]
    lines = [line.partition(":") for line in trained[-1].splitlines()] if trained else []
    return {name: _value(text[1:]) for name, colon, text in lines if colon and text.startswith(" ")}


def _value(text):
    """A value as Python prints it; text that is no such value stays text."""
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        value = ast.literal_eval(text)
        if repr(value) == text:
            return value
    return text
