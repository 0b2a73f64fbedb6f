"""What every entry point shares: user errors, atomic files, safe reading, the run folder, seeds, the device."""

import contextlib
import errno
import logging
import logging.handlers
import os
import random
import shutil
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
        with torch.serialization.safe_globals(_numpy_scalars()):
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


def _numpy_scalars():
    """Older checkpoints keep PSNR values as NumPy scalars: data, no code."""
    scalar = np._core.multiarray.scalar
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]


def choose_device(options, ranks):
    """The device that the options ask for: CUDA or what else torch has here, the CPU with --cpu or without any.

    Of several processes on a machine each has the GPU of its own number.
    """
    if options.cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        number, reason = options.gpu_id, f"--gpu_id {options.gpu_id}"
        if ranks.world_size > 1:
            number, reason = ranks.local_rank, f"process {ranks.local_rank} of this machine"
        if number >= torch.cuda.device_count():
            raise UserError(f"{reason}: this machine has {torch.cuda.device_count()} CUDA devices")
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    if torch.backends.mps.is_available() and ranks.world_size == 1:
        return torch.device("mps")
    log.info("no CUDA device here: running on the CPU")
    return torch.device("cpu")


def set_seed(seed):
    """Seed every generator in use: Python's, NumPy's and torch's, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def use_deterministic_algorithms():
    """Make CUDA repeat itself bit for bit, at some speed; the CPU does so anyway.

    torch warns of what has no deterministic form. It counts kthvalue among these, of which only the index varies.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


class RunFolder:
    """Where everything of one run lies (spec, section 7): config.txt, log.txt, eval.txt, model/, results-<set>/..."""

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoint = self.path / "model" / "checkpoint.pth.tar"
        self.best = self.path / "model" / "model_best.pth.tar"
        self.prepare = self.start

    def begin(self):
        """Make the folder ready to be written to, in the way that `prepare` says, once."""
        prepare, self.prepare = self.prepare, lambda: None
        prepare()

    def check_writable(self):
        """Raise UserError where the folder can't be made or written to, without making it."""
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"--save {self.path}: {nearest} is no folder that can be written to; choose another place")

    def is_run(self):
        """Whether a run of ours was here before."""
        return (self.path / "config.txt").is_file()

    def start(self, *, reset=False, archive=False):
        """Make the folder. reset: delete the run that was here; archive: keep it aside instead. Raises UserError."""
        if reset and self.path.exists() and not self.is_run():
            raise UserError(f"--reset: {self.path} is not a run of this program (no config.txt); nothing was deleted")
        with self._writable():
            if reset and self.path.exists():
                with self.claimed():
                    self._delete()
            elif archive and (self.checkpoint.exists() or self.best.exists()):
                with self.claimed():
                    self._archive()
            (self.path / "model").mkdir(parents=True, exist_ok=True)

    def describe(self, config_text):
        """Add the time and the options of this start to config.txt. Raises UserError."""
        with self._writable():
            append_text(self.path / "config.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{config_text}\n\n")

    @contextlib.contextmanager
    def claimed(self):
        """Keep other training runs out of the folder, which exists; the system takes the claim back at any death.

        Files that killed runs left unfinished are removed. Raises UserError where another process trains here.
        """
        with self._writable():
            file = open(self.path / ".lock", "w")
        with file:
            if not _lock(file):
                raise UserError(f"--save {self.path}: another process is training in it; wait for it, or end it first")
            remove_unfinished(self.path)
            yield

    @contextlib.contextmanager
    def _writable(self):
        try:
            yield
        except OSError as error:
            raise UserError(f"--save {self.path}: can't be written ({error.strerror}); choose another place") from error

    def _delete(self):
        doomed = self.path.with_name(f"{UNFINISHED}{self.path.name}")  # half deleted, it would not pass for a run
        shutil.rmtree(doomed, ignore_errors=True)
        self.path.rename(doomed)
        shutil.rmtree(doomed)

    def _archive(self):
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)
        print(f"the run that was in {self.path} is kept in {aside}")

    def results(self, set_name):
        """The folder for a test set's images."""
        return self.path / f"results-{set_name}"


def _lock(file):
    """Whether this process alone has the file now; where there are no such locks, every process has it."""
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked loader workers don't inherit this kind
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        return True
    return True


@contextlib.contextmanager
def logging_to_stdout():
    """Send the log to stdout while the block runs. Gives a function that sends it to a file too, from its beginning."""
    root = logging.getLogger()
    kept = logging.handlers.MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
    handlers = [logging.StreamHandler(sys.stdout), kept]
    level = root.level
    root.setLevel(logging.INFO)

    def add(path):
        append_text(path, "")
        handlers.append(_outlived(logging.FileHandler(path)))
        kept.setTarget(handlers[-1])
        kept.flush()
        kept.capacity = 0

    for handler in handlers:
        root.addHandler(_outlived(handler))
    try:
        yield add
    except (UserError, Stopped) as error:
        told = f"error: {error}" if isinstance(error, UserError) else str(error)
        kept.handle(log.makeRecord(log.name, logging.ERROR, "", 0, told, (), None))
        raise
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            with contextlib.suppress(OSError):  # a full disk again
                handler.close()


def _outlived(handler):
    """The handler, set so that a full disk or closed terminal costs lines of the log, not the run."""
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.handleError = lambda record: None
    return handler


@contextlib.contextmanager
def open_run(options, path, config_text, ranks):
    """Prepare what every run needs: its folder, the log, seeds, the device. Gives (RunFolder, device).

    Whoever writes first calls the folder's `begin`; a mistake found before that leaves the disk as it was. A new
    training run in the folder of an earlier one then deletes that with --reset, and keeps it aside otherwise. ranks:
    which of the run's processes this is (model.parallel.Ranks); the first one alone writes.
    """
    fresh = not (options.test_only or options.load or options.resume)
    with contextlib.ExitStack() as stack:
        folder = RunFolder(path)
        if ranks.rank == 0:
            log_to_file = stack.enter_context(logging_to_stdout())

            def prepare():
                folder.start(reset=options.reset and fresh, archive=fresh)
                if not options.test_only:
                    stack.enter_context(folder.claimed())
                folder.describe(config_text)
                log_to_file(folder.path / "log.txt")

            folder.prepare = prepare
            folder.check_writable()
            if not (fresh or options.test_only):  # before the checkpoint is read, which another process may be writing
                folder.begin()
        else:
            logging.getLogger().addHandler(logging.NullHandler())  # or each would print the first one's warnings
        set_seed(options.seed)
        if options.deterministic:
            use_deterministic_algorithms()
        yield folder, choose_device(options, ranks)


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
