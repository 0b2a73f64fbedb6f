"""What every entry point shares: user errors, atomic files, safe reading, the run folder, seeds, the device."""

import contextlib
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

log = logging.getLogger(__name__)


class UserError(Exception):
    """A mistake that the person at the command line can mend.

    The message is one line that names the flag or file, says what is wrong and what to do. Only `run_main` catches it.
    """


def run_main(main):
    """Call `main()`; a UserError becomes one line on stderr and exit code 2. Returns the exit code."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary path beside `path`; move it into place when the block ends well, remove it otherwise.

    Readers see the old file or the whole new one. The new file is flushed to disk before the move.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save_torch_file(value, path):
    """Write `value` (tensors and plain values) atomically. Raises UserError; what was there before then stays."""
    try:
        with atomic_path(path) as temporary:
            torch.save(value, temporary)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: could not be written ({reason}); what was there before is kept") from error


def read_torch_file(path):
    """What torch.save wrote, on the CPU; nothing in the file is executed. Raises UserError where that can't be had."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "Unsupported" in str(error) or "weights_only" in str(error).lower():
            reason = "holds Python objects besides tensors and plain values, which are not loaded for safety"
        else:
            reason = "is not a checkpoint that torch can read, or is cut short"
        raise UserError(f"{path}: {reason}; save its state dict alone, or fetch the file again") from error


def _numpy_scalars():
    """Older checkpoints keep PSNR values as NumPy scalars: data, no code."""
    scalar = np._core.multiarray.scalar
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]


def choose_device(options):
    """The device that the options ask for: CUDA or what else torch has here, the CPU with --cpu or without any."""
    if options.cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        if options.gpu_id >= torch.cuda.device_count():
            raise UserError(f"--gpu_id {options.gpu_id}: this machine has {torch.cuda.device_count()} CUDA devices")
        return torch.device("cuda", options.gpu_id)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    log.info("no CUDA device here: running on the CPU")
    return torch.device("cpu")


def set_seed(seed):
    """Seed every generator in use: Python's, NumPy's and torch's, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


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


class RunFolder:
    """Where everything of one run lies (spec, section 7): config.txt, log.txt, eval.txt, model/, results-<set>/..."""

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoint = self.path / "model" / "checkpoint.pth.tar"
        self.best = self.path / "model" / "model_best.pth.tar"

    def is_run(self):
        """Whether a run of ours was here before."""
        return (self.path / "config.txt").is_file()

    def start(self, config_text, *, reset=False, archive=False):
        """Make the folder and write config.txt. reset: delete the run that was here; archive: keep it aside instead."""
        try:
            if reset and self.path.exists():
                self._delete()
            elif archive and (self.checkpoint.exists() or self.best.exists()):
                self._archive()
            (self.path / "model").mkdir(parents=True, exist_ok=True)
            with open(self.path / "config.txt", "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{config_text}\n\n")
        except OSError as error:
            raise UserError(f"--save {self.path}: can't be written ({error.strerror}); choose another place") from error

    def _delete(self):
        if not self.is_run():
            raise UserError(f"--reset: {self.path} is not a run of this program (no config.txt); nothing was deleted")
        shutil.rmtree(self.path)

    def _archive(self):
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)
        print(f"the run that was in {self.path} is kept in {aside}")

    def results(self, set_name):
        """The folder for a test set's images."""
        return self.path / f"results-{set_name}"


@contextlib.contextmanager
def logging_to(folder):
    """Send the log to stdout and to <folder>/log.txt while the block runs."""
    root = logging.getLogger()
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(Path(folder) / "log.txt")]
    level = root.level
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        root.addHandler(handler)
    try:
        yield
    except UserError as error:
        handlers[1].handle(log.makeRecord(log.name, logging.ERROR, "", 0, f"error: {error}", (), None))
        raise
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def open_run(options, path, config_text):
    """Prepare what every run needs: its folder, the log, seeds, the device. Gives (RunFolder, device).

    A new training run in the folder of an earlier one deletes that with --reset, and keeps it aside otherwise.
    """
    folder = RunFolder(path)
    fresh = not (options.test_only or options.load or options.resume)
    folder.start(config_text, reset=options.reset and fresh, archive=fresh)
    with logging_to(folder.path):
        set_seed(options.seed)
        yield folder, choose_device(options)


class Timer:
    """Seconds spent between `tic` and `toc`, summed until `release` reads and clears them."""

    def __init__(self):
        self._sum = 0.0
        self._start = time.perf_counter()

    def tic(self):
        self._start = time.perf_counter()

    def toc(self):
        self._sum += time.perf_counter() - self._start

    def release(self):
        seconds, self._sum = self._sum, 0.0
        return seconds
