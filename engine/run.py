"""What every run begins with: its log, its folder, seeds and device."""

import contextlib
import logging
import logging.handlers
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from engine import claims
from engine.device import choose_device, set_seed, use_deterministic_algorithms
from engine.run_folder import RunFolder
from model import parallel
from model.saved import LAST, same_place
from utility import Stopped, UserError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def logging_to_stdout() -> Iterator[Callable[[Path], None]]:
    """Send the log to stdout while the block runs. Gives a function that sends it to a file too, from its beginning."""
    root = logging.getLogger()
    kept = logging.handlers.MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
    handlers = [logging.StreamHandler(sys.stdout), kept]
    level = root.level
    root.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a full disk or a closed terminal costs lines of the log, not the run

    def add(path):
        handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        kept.setTarget(handlers[-1])
        kept.flush()
        kept.capacity = 0

    for handler in handlers:
        root.addHandler(handler)
    try:
        yield add
    except (UserError, Stopped) as error:
        message = f"error: {error}" if isinstance(error, UserError) else str(error)
        kept.handle(log.makeRecord(log.name, logging.ERROR, "", 0, message, (), None))
        raise
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            with contextlib.suppress(OSError):  # a full disk again
                handler.close()


@contextlib.contextmanager
def open_run(path: str | Path, *, config_text: Callable[[], str], notes: Sequence[str] = (), test_only: bool = False,
             load: bool = False, resume: str = "", reset: bool = False, seed: int = 1, deterministic: bool = False,
             cpu: bool = False, gpu_id: int = 0) -> Iterator[tuple[RunFolder, torch.device]]:
    """Prepare what every run needs: its folder, the log, seeds, the device. Gives (RunFolder, device).

    The folder's `begin` is called before anything is written; a mistake found before that leaves the disk unchanged.
    A training run that does not continue the folder's last checkpoint then moves the run that is there aside, or
    deletes it with `reset`. config_text: a function, called when config.txt is written. load: continue the folder's
    checkpoint; resume: this file. notes: lines that the log begins with. Of the run's processes the first one alone
    writes.
    """
    with contextlib.ExitStack() as stack:
        folder = RunFolder(path, continued=Path(resume) if resume else Path(path) / LAST if load else None,
                           flag="--load" if load else "--save")
        own = bool(resume) and same_place(resume, folder.checkpoint)
        continues = own or load and not resume and folder.has_run()
        if parallel.is_first():
            log_to_file = stack.enter_context(logging_to_stdout())
            for note in notes:
                log.log(logging.WARNING if note.startswith("warning: ") else logging.INFO, "%s", note)

            def begin():
                if test_only or not continues:
                    begins = not (test_only or resume)
                    folder.make(reset=reset and begins, archive=not test_only)
                    stack.enter_context(claims.testing(folder.path) if test_only else folder.claimed())
                folder.describe(config_text())
                folder.append("log.txt", "")  # ends a half line
                log_to_file(folder.path / "log.txt")

            folder.begin = begin
            folder.check_writable()
            if continues and not test_only:  # before the checkpoint is read, which another process may be writing
                if not resume:
                    folder.check_continuable()
                folder.make()
                stack.enter_context(folder.claimed())
        else:
            logging.getLogger().addHandler(logging.NullHandler())  # or each would print the first one's warnings
        set_seed(seed)
        if deterministic:
            use_deterministic_algorithms()
        yield folder, choose_device(cpu=cpu, gpu_id=gpu_id)
