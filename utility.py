"""What every entry point shares: user errors, signals, atomic files, safe reading, a timer."""

import argparse
import contextlib
import errno
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

log = logging.getLogger(__name__)

UNFINISHED = ".part-"


class UserError(Exception):
    """A mistake that the person at the command line can mend.

    The message is one line that names the flag or file, says what is wrong and what to do. Only `run_main` catches it.
    """


class Stopped(BaseException):
    """A signal asked the program to end; like KeyboardInterrupt no `except Exception` holds it up."""

    def __init__(self, number, advice="nothing that was saved is lost"):
        super().__init__(f"stopped by {signal.Signals(number).name}: {advice}")
        self.number = number


def run_main(main):
    """Call `main()`; what ends it early becomes one line on stderr. Returns the exit code.

    A UserError gives 2, a full disk or memory 1, a signal (SIGTERM, SIGINT, SIGHUP) 128 and its number.
    """
    try:
        with answering_signals(_stop):
            return main() or 0
    except UserError as error:
        told, code = f"error: {error}", 2
    except Stopped as stop:
        told, code = str(stop), 128 + stop.number
    except (MemoryError, OSError, RuntimeError) as error:
        if not (lack := _what_lacks(error)):
            raise
        told, code = f"error: {lack}", 1
    print(told, file=sys.stderr)
    return code


def _what_lacks(error):
    """Which resource of the machine an exception says is used up, in words; empty for other exceptions."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error.filename or 'a file'}: can't be written ({error.strerror}); what was saved is kept"
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "out of memory; lower --batch_size or --patch_size, test with --chop or a smaller --chop_size"
    return ""


def _stop(number):
    raise Stopped(number)


@contextlib.contextmanager
def answering_signals(answer):
    """Let `answer(number)` handle SIGTERM, SIGINT and, unless nohup ignores it, SIGHUP while the block runs."""
    if threading.current_thread() is not threading.main_thread():  # only there Python lets handlers be set
        yield
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: answer(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def holding_signals():
    """Give an object whose `number` is that of the signal that came meanwhile, or None; the block ends in its own time.

    Raises Stopped at the end of a block that took no notice of it.
    """
    held = SimpleNamespace(number=None)
    with answering_signals(lambda number: setattr(held, "number", number)):
        yield held
    if held.number is not None:
        raise Stopped(held.number)


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary path beside `path`; move it into place when the block ends well, remove it otherwise.

    Readers see the old file or the whole new one. The new file is flushed to disk before the move. What a killed
    process leaves behind starts with UNFINISHED; `remove_unfinished` finds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{UNFINISHED}{path.stem[:40]}.", suffix=path.suffix)
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


def remove_unfinished(folder, *, older_than=0.0):
    """Delete the files below `folder` that a killed process was writing, those of at least so many seconds.

    Where others may be writing at the same time, the age has to be more than a write can take.
    """
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):  # finished by its writer meanwhile, or on a read-only disk
            if older_than == 0 or time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def append_text(path, text):
    """Add lines to a text file; a half line that a killed process left there is ended first. Raises UserError."""
    try:
        with open(path, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            whole = file.read(1) in (b"", b"\n")
            file.write((("" if whole else "\n") + text).encode())
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror})") from error


def save_torch_file(value, path):
    """Write `value` (tensors and plain values) atomically. Raises UserError; what was there before then stays.

    Equal values give equal bytes: torch writes the name of the file into it unless it is handed an open one.
    """
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            torch.save(value, file)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: could not be written ({_first_cause(error)}); what was there is kept") from error


def _first_cause(error):
    """What the system said, where torch's complaint about a stream that broke off has hidden it."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]


def read_torch_file(path):
    """What torch.save wrote, on the CPU; nothing in the file is executed. Raises UserError where that can't be had."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    _check_whole(path)
    try:
        with torch.serialization.safe_globals(_plain_kinds()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "Unsupported" in str(error) or "weights_only" in str(error).lower():
            reason = "holds Python objects besides tensors and plain values, which are not loaded for safety"
        else:
            reason = "is not a checkpoint that torch can read, or is damaged or cut short"
        raise UserError(f"{path}: {reason}; save its state dict alone, or fetch the file again") from error


def _check_whole(path):
    """Raise UserError for a file that is neither a zip, as torch writes, nor a pickle, as it used to, or a damaged zip.

    torch itself compares no checksums.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    try:
        whole = start[:1] == b"\x80" or start == b"PK" and zipfile.ZipFile(path).testzip() is None
    except (zipfile.BadZipFile, OSError):
        whole = False
    if not whole:
        raise UserError(f"{path}: is not a checkpoint that torch can read, or is damaged or cut short; give another")


def _plain_kinds():
    """What people keep beside weights that is data, no code: arguments, NumPy's values by its old and new names."""
    makers = [value.__reduce__()[0] for value in (np.float64(), np.zeros(0))]
    named = [_named(maker, f"numpy.{place}.multiarray") for maker in makers for place in ("core", "_core")]
    dtypes = [type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    return [argparse.Namespace, *named, np.ndarray, np.dtype, *dtypes]


def _named(function, module):
    """The function as one of another module: files name it so, and torch looks for the name."""
    def call(*args):
        return function(*args)

    call.__module__, call.__name__, call.__qualname__ = module, function.__name__, function.__name__
    return call


def compiled(function, compiler):
    """What --compile makes of a part of the training step: torch.compile's form of it; itself where `compiler` is None.

    compiler: the name of a backend of torch.compile. It makes a form for each phase of training, when first needed.
    """
    return function if compiler is None else torch.compile(function, backend=compiler)


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
