"""What a checkpoint holds besides its network: random state and options, and how its parts are read."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.torch_file import read_torch_file
from model.weights import FAMILY, read_weights
from utility import UserError


def random_state() -> dict[str, Any]:
    """The state of every generator, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to what `random_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([cuda.cpu() for cuda in state["cuda"]])


def checkpoint_with_options(path: str | Path) -> dict[str, Any] | None:
    """A checkpoint of ours that keeps its options, {name: value}; None for any other file, as the oldest ones are.

    Raises nothing: the code that loads the file says what is wrong with it.
    """
    try:
        state = read_torch_file(path)
    except UserError:
        return None
    ours = isinstance(state, dict) and str(state.get("format")).startswith(FAMILY)
    return state if ours and isinstance(state.get("options"), dict) else None


def read_training(path: str | Path, own: dict[str, Any]) -> dict[str, Any]:
    """One of our checkpoints, to continue, made with the settings in `own`, the run's state as a checkpoint has it.

    Raises UserError for any other file. The oldest ones keep no options, and tensors don't tell bits or a method.
    """
    state = read_weights(path).checkpoint
    if state is None or "optimizer" not in state:
        raise UserError(f"{path}: holds weights, no training to continue; give it with --refine or --pre_train")
    with reading_parts(path):
        for part in ("network", "quant"):
            there, here = state[part] or {}, own[part] or {}
            if differing := [name for name in here if there.get(name, here[name]) != here[name]]:
                raise UserError(f"{path}: was trained with {differing[0]} {there[differing[0]]}, this run has "
                                f"{here[differing[0]]}; give the flags of its training")
    return state


def tested_alike(stored: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether a run was judged as this run judges, by their options: PSNR of two tests can't be compared."""

    def judged_by(options):
        first = [name for name in options.get("data_test", ()) if name != "Demo"][:1]
        return first, str(options.get("data_range")).split("/")[-1], *map(options.get, ("self_ensemble", "precision"))

    return judged_by({**own, **stored}) == judged_by(own)


@contextlib.contextmanager
def reading_parts(path: str | Path) -> Iterator[None]:
    """Turn any error in the block, which uses parts of a checkpoint, into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a file can hold anything, so anything can be raised
        raise UserError(f"{path}: holds no complete training state ({error!r:.100}); give another checkpoint, or its "
                        "weights with --refine") from error
