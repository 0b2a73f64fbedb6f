"""Where a run lies on the disk, its log, and what every run begins with."""

import contextlib
import logging
import logging.handlers
import os
import shutil
import sys
import time
from pathlib import Path

from engine.device import choose_device, set_seed, use_deterministic_algorithms
from utility import UNFINISHED, Stopped, UserError, append_text, remove_unfinished

log = logging.getLogger(__name__)


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
        handlers.append(_outlived(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")))
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
