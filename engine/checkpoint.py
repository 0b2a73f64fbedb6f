"""What a checkpoint holds besides tensors by name: random state, and the errors of files that lack something."""

import contextlib
import random

import numpy as np
import torch

from utility import UserError


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
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: holds no complete training state ({error!r:.100}); give another checkpoint, or its "
                        "weights with --refine") from error
