"""What a checkpoint holds besides its network: random state and options, and how its parts are read."""

import contextlib
import hashlib
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import parallel
from model.optimizer_state import demand, is_number
from model.torch_file import read_torch_file
from model.weights import FAMILY, read_weights
from utility import UserError

MOST_EPOCHS = 10**6
OF_A_MACHINE = {"dir_data", "dir_demo", "pre_train", "refine", "vgg_weights", "ext", "n_threads"}  # may differ in a run


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


def fingerprint(state: Any) -> torch.Tensor:
    """SHA-256 of nested tensors and plain values, uint8 [1, 32]: alike where all of them are, on any device."""
    digest = hashlib.sha256()

    def add(value):
        if torch.is_tensor(value):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, (dict, list, tuple)):
            for part in value.items() if isinstance(value, dict) else value:
                add(part)
        else:
            digest.update(f"{value!r} ".encode())

    add(state)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)[None]


def begin_alike(state: Any, options: dict[str, Any], place: Path) -> None:
    """Return when every process of the run has come here: what the first one writes then misleads none that reads.

    Raises UserError where their `state`, nested tensors and plain values, is not the same, or their options.
    """
    if parallel.world_size() == 1:
        return
    alike = {name: value for name, value in options.items() if name not in OF_A_MACHINE}
    found = parallel.all_gather(fingerprint([state, alike]))
    if (found != found[0]).any():
        raise UserError(f"{place}: the processes of this run would begin with different weights, images or flags; give "
                        "all the same, and put files where all machines see them")


def checkpoint_with_options(path: str | Path, *, damaged_too: bool = True) -> dict[str, Any] | None:
    """A checkpoint of ours that keeps its options, {name: value}; None for another file, as the oldest ones, or none.

    damaged_too: None also for a file that can't be read; else UserError, naming it, is raised.
    """
    try:
        state = read_torch_file(path)
    except UserError:
        if damaged_too or not Path(path).exists():
            return None
        raise
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


def check_training_state(state: dict, path: str | Path, *, batches: int) -> None:
    """Raise ValueError, TypeError or KeyError for a checkpoint's part that loads but that training could not use.

    batches: how many an epoch has now. Raises UserError where the checkpoint's epoch has gone further.
    """
    epoch, batch, best = state["epoch"], state["batch"], state["best"]
    demand(_whole(epoch) and epoch <= MOST_EPOCHS, f"epoch {epoch}")
    demand(_whole(batch), f"batch {batch}")
    demand(is_number(best["psnr"]) and not math.isnan(best["psnr"]) and _whole(best["epoch"]), f"best {best}")
    demand(state["scheduler"]["last_epoch"] == epoch, f"a scheduler at {state['scheduler']['last_epoch']}")
    demand(_named(state["sums"], lambda value: value.ndim == 0 and value.is_floating_point()), "sums of losses")
    counts = loss_counts(state)
    demand(counts.keys() == state["sums"].keys() and all(_whole(count) and count for count in counts.values()),
           "counts of losses")
    for row in state["history"]:
        demand(_whole(row["epoch"]) and all(_named(row[group], is_number) for group in ("losses", "psnr")),
               f"a row {row} of history")
    for part in ("optimizer", "objective", "sums", "precision"):
        demand(all_finite(state[part]), f"a value in {part} that is not finite")
    if batch > batches:
        raise UserError(f"{path}: stopped after batch {batch} of its epoch, --test_every is {batches} now; give the "
                        "flags of its training")


def loss_counts(state: dict[str, Any]) -> dict[str, int]:
    """{name of a loss: batches in its sum} of a checkpoint; older ones keep none, all their sums are of all batches."""
    return state.get("counts") or dict.fromkeys(state["sums"], state["batch"])


def _whole(value):
    return type(value) is int and value >= 0


def _named(values, fits):
    """Whether `values` is a dict of fitting ones, by names that may become file names."""
    return all(re.fullmatch(r"[^/\0]{1,255}", name) and fits(value) for name, value in values.items())


def all_finite(value: Any) -> bool:
    """Whether all numbers in nested values are finite; text, None and the like are."""
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(all_finite, value))
    if torch.is_tensor(value):
        return bool(torch.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)
