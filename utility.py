"""What every entry point shares: user errors, signals, atomic files, safe reading."""

import contextlib
import errno
import itertools
import os
import re
import secrets
import signal
import stat
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO

FULL_PRECISION = 32  # the bits of a network that is not quantized
UNFINISHED = ".part-"
UNFINISHED_TEST = ".unfinished-test"  # in a folder of SR images until all of a set are there
STALE_SECONDS = 3600  # more than a write can take
MAKER = "DDTB reference implementation"  # how pictures say who made them


class UserError(Exception):
    """A mistake that the person at the command line can mend.

    The message names the flag or file, says what is wrong and what to do. `run_main` prints it.
    """

    def __str__(self) -> str:
        """The message in one line: control characters, which names of files may hold, are written as Python does."""
        return re.sub(r"[\x00-\x1f\x7f]+", lambda found: repr(found[0])[1:-1], super().__str__())


class FileError(UserError, OSError):
    """What the system refused to do with a file; also an OSError, for callers that can go on without the file."""


class Stopped(BaseException):
    """A signal asked the program to end; like KeyboardInterrupt no `except Exception` holds it up."""

    def __init__(self, number: int, advice: str = "nothing that was saved is lost") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {advice}")
        self.number = number


def run_main(main: Callable[[], int | None], *, lighter: str = "") -> int:
    """Call `main()`; what ends it early becomes one line on stderr. Returns the exit code.

    A UserError, FileError too, gives 2; memory that is used up, or another refusal of the system, 1; a signal (SIGTERM,
    SIGINT, SIGHUP) 128 and its number. A reader of stdout that has gone (`| head`) gives 128 and SIGPIPE's number,
    without a line. lighter: what to do when memory is used up. Text that stdout can't encode is written with
    backslashes.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # whoever started the program has closed it
            setattr(sys, name, open(os.devnull, "w"))
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    code, message = 0, ""
    try:
        with answering_signals(_stop):
            code = main() or 0
    except UserError as error:
        message, code = f"error: {error}", 2
    except Stopped as stop:
        message, code = str(stop), 128 + stop.number
    except BrokenPipeError:
        code = 128 + getattr(signal, "SIGPIPE", 13)  # Windows has none
    except (MemoryError, OSError, RuntimeError) as error:
        if not (lack := _what_lacks(error, lighter)):
            raise
        message, code = f"error: {lack}", 1
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its end
        if not message and not isinstance(error, BrokenPipeError):
            message, code = f"error: standard output: can't be written ({error.strerror})", 1
    with contextlib.suppress(OSError):
        if message:
            print(message, file=sys.stderr)
    return code


def _what_lacks(error, lighter):
    """What the machine or its system refuses, in words; empty for other exceptions."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error.filename or 'stdout or a file'}: can't be written ({error.strerror}); what was saved is kept"
    if "DataLoader worker" in str(error):  # PyTorch notices it anywhere in the main process
        return "a process that loads images was killed, often for lack of memory; free some, or lower --n_threads"
    if "busy or unavailable" in str(error):  # CUDA's words
        return "the GPU is busy, perhaps with another program; wait for it, or choose one by CUDA_VISIBLE_DEVICES"
    if isinstance(error, MemoryError) or re.search("(?i)can(no|')t allocate|out of memory|alloc_failed", str(error)):
        return f"out of memory{lighter and '; '}{lighter}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    return str(error) if str(error).startswith("Symlink loop") else ""  # pathlib's, before Python 3.13


def first_line(text: str | None) -> str:
    """The first line of a text; empty for the docstrings that python -OO drops."""
    return (text or "").partition("\n")[0]


def whole_number(text: str) -> int | None:
    """The number that ASCII digits spell, at most 18 of them; None for any other text."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def check_file(path: str | Path, flag: str = "") -> None:
    """Raise UserError, with the true reason, unless `path` is an ordinary file: opening a pipe would wait for ever."""
    place = f"{flag} {path}".strip()
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                file.read(1)  # what a failing disk refuses later would come without the file's name
    except FileNotFoundError:
        raise UserError(f"{place}: no such file") from None
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise UserError(f"{place}: is {kind}; give an ordinary file")


def add_force(parser: ArgumentParser) -> None:
    """Add --force, for `check_output`."""
    parser.add_argument("--force", action="store_true", help="overwrite files that this tool did not write")


def check_output(path: str | Path, *, flag: str, mark: bytes, inputs: Iterable[str | Path] = (),
                 force: bool = False) -> None:
    """Raise UserError where writing a file to `path` would destroy something.

    That is one of the `inputs` in any case, and, without `force`, a file, unless it is empty, without `mark`, the bytes
    by which a tool knows what it wrote itself. A folder, pipe or device can't be replaced by a file either.
    """
    if not os.path.lexists(path):
        return
    if os.path.exists(path):
        check_file(path, flag)
        if any(os.path.exists(source) and os.path.samefile(source, path) for source in inputs):
            raise UserError(f"{flag} {path}: would overwrite what is read; give another name")
    if force or os.path.exists(path) and mark in (Path(path).read_bytes() or mark):
        return
    raise UserError(f"{flag} {path}: would overwrite a file that this tool did not write; give another name or --force")


def _stop(number):
    raise Stopped(number)


@contextlib.contextmanager
def answering_signals(answer: Callable[[int], object]) -> Iterator[None]:
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
def holding_signals() -> Iterator[SimpleNamespace]:
    """Give an object whose `number` is that of the signal that came meanwhile, or None; the block ends in its own time.

    Raises Stopped at the end of a block that took no notice of it.
    """
    held = SimpleNamespace(number=None)
    with answering_signals(lambda number: setattr(held, "number", number)):
        yield held
    if held.number is not None:
        raise Stopped(held.number)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it into place when the block ends well, remove it otherwise.

    Readers see the old file or the whole new one. The new file is flushed to disk before the move. What a killed
    process leaves behind starts with UNFINISHED; `remove_unfinished` finds it. Raises FileError for what the system
    refuses on the way, also where a library (torch, safetensors) tells it by an exception of its own.
    """
    path = Path(path)
    temporary = path.with_name(f"{UNFINISHED}{path.stem[:40]}.{secrets.token_hex(4)}{path.suffix[:20]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # a library may have put a file of its own there, as safetensors does
        with open(temporary, "r+b") as file:  # Windows flushes no file that can't be written
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, Exception) and not isinstance(error, UserError) and (reason := _system_reason(error)):
            named = str(getattr(error, "filename", None) or temporary)
            other = "" if named == str(temporary) else f"{named}: "
            raise FileError(f"{path}: can't be written ({other}{reason}); what was there is kept") from error
        raise


def free_old_name(path: Path, *, suffix: str = "") -> Path:
    """The first of NAME.old-1, NAME.old-2, ... beside `path` that nothing has; a `suffix` of its name stays last."""
    name = path.name.removesuffix(suffix)
    names = (path.with_name(f"{name}.old-{number}{suffix}") for number in itertools.count(1))
    return next(one for one in names if not os.path.lexists(one))


def lock(file: IO, *, wait: bool = False, shared: bool = False) -> bool:
    """Lock an open file until this process, forks apart, closes it; False where another holds it, not both shared."""
    try:
        import fcntl
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError) as error:
        return not isinstance(error, (BlockingIOError, PermissionError))  # True on systems without locks
    return True


def _system_reason(error):
    """What the system said, also where torch's or safetensors' own exception hides it; empty for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return "is in the way, no folder" if error.errno == errno.EEXIST else error.strerror
        if number := re.search(r"\(os error ([0-9]+)\)", str(error)):
            return os.strerror(int(number[1]))
        error = error.__cause__ or error.__context__
    return ""


def remove_unfinished(folder: str | Path) -> None:
    """Delete what killed processes were writing below `folder`; younger files may be another's, at work."""
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):  # finished by its writer meanwhile, or on a read-only disk
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
