"""What a checkpoint holds besides its network: random state, and whether all of it can be used."""

import contextlib
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import model
from model.common import SuperResolver
from utility import UserError

MOST_EPOCHS = 10**6


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
    demand(_named(state["sums"], lambda value: torch.is_tensor(value) and value.ndim == 0), "sums of losses")
    for row in state["history"]:
        demand(_whole(row["epoch"]) and all(_named(row[group], is_number) for group in ("losses", "psnr")),
               f"a row {row} of history")
    for part in ("optimizer", "objective", "sums", "precision"):
        demand(_finite(state[part]), f"a value in {part} that is not finite")
    if batch > batches:
        raise UserError(f"{path}: stopped after batch {batch} of its epoch, --test_every is {batches} now; give the "
                        "flags of its training")


def demand(right: Any, what: str) -> None:
    """Raise ValueError unless `what` is right."""
    if not right:
        raise ValueError(f"{what} can't be used")


def _whole(value):
    return type(value) is int and value >= 0


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
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


def check_same_network(state: dict, path: str | Path, network: SuperResolver, quant: dict | None) -> None:
    """Raise UserError unless a checkpoint is of this network, quantized in this way (None: not at all).

    Older files lack some settings, or have others that this network does not know.
    """
    skeleton = model.skeleton(state["network"], f"{path}: its network record")
    found = {"network": {"name": model.name_of(skeleton), **skeleton.settings}, "quant": state["quant"]}
    for part, own in (("network", {"name": model.name_of(network), **network.settings}), ("quant", quant)):
        there = found[part]
        if there != own and not (there and own and all(there.get(name, one) == one for name, one in own.items())):
            raise UserError(f"{path}: was trained as {part} {there}, this run is {own}; give its flags")
