"""The folder of a run. Only the run's own files are made, moved aside and deleted; others stay untouched."""

import contextlib
import glob
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine import claims
from engine.own_files import matching, own_files
from model.saved import BEST, LAST, best_of
from model.torch_file import read_torch_file
from utility import UNFINISHED, UserError, atomic_path, check_file, free_old_name, holding_signals

log = logging.getLogger(__name__)

CONFIG_START = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n\w+: ")  # as `describe` writes it


class RunFolder:
    """Where everything of one run lies: config.txt, log.txt, eval.txt, model/, results-<set>/, curves.

    Other files and runs in the folder or below it stay untouched.
    continued: the checkpoint that the run goes on from, None for a new run. rewound: whether that is an earlier epoch
    of this run, whose models, that one too, were moved aside. begin: to be called before anything is written. flag:
    what named the path, for messages.
    """

    def __init__(self, path: str | Path, *, continued: Path | None = None, flag: str = "--save") -> None:
        self.path = Path(path)
        self.place = f"{flag} {path}"
        self.checkpoint = self.path / LAST
        self.best = self.path / BEST
        self.continued = continued
        self.rewound = False
        self.begin: Callable[[], Any] = self.make

    @property
    def _behind_link(self):
        """The folder itself where the path is a link to it, which may be gone for a moment."""
        return self.path.resolve() if self.path.is_symlink() else self.path

    def check_writable(self) -> None:
        """Raise UserError where the folder can't be made or written to, or is another program's; makes nothing."""
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"{self.place}: {nearest} is no folder that can be written to; choose another place")
        config = self.path / "config.txt"
        if config.exists() and not self.is_run() and not (config.is_file() and config.stat().st_size == 0):
            raise UserError(f"{self.place}: is not a run of this program (its config.txt is another's); nothing "
                            "was touched, choose another name")

    def is_run(self) -> bool:
        """Whether a run of ours was here before."""
        with contextlib.suppress(OSError), open(self.path / "config.txt", errors="replace") as file:
            return CONFIG_START.match(file.read(200)) is not None
        return False

    def has_run(self) -> bool:
        """Whether something of a run, or a run begun, is here."""
        return self.is_run() or bool(self._made())

    def check_continuable(self) -> None:
        """Raise UserError where the checkpoint is gone, and beginning anew would overwrite what the run has made."""
        made = self._made()
        if made and not self.checkpoint.is_file():
            raise UserError(f"{self.place}: has results ({made[0].name}) and no checkpoint.pth.tar that can be "
                            "read; put it back, name a file with --resume, or begin another run with --save"
                            f"{self.told_aside()}")

    def to_continue(self) -> Path | None:
        """The last checkpoint; None, with a line in the log, for a run without one: it is begun."""
        if self.checkpoint.is_file():
            return self.checkpoint
        log.warning("warning: --load %s: no checkpoint is there yet, beginning with the flags that are given%s",
                    self.path, self.told_aside())
        return None

    def told_aside(self) -> str:
        """In words, the run that was here last and was moved aside; empty where there is none."""
        return "".join(f"; the run that was here last is in {path}" for path in self._aside()[:1])

    def _aside(self):
        """The runs that were here and were moved aside, the last one first."""
        there = self._behind_link.parent.glob(f"{glob.escape(self._behind_link.name)}.old-*")
        return sorted((path for path in there if RunFolder(path).is_run()), reverse=True,
                      key=lambda path: (len(path.name), path.name))

    def name_of(self, file: Path) -> str:
        """What eval.txt calls a file: within the folder by its place there."""
        within = Path(os.path.relpath(file, self.path))
        return (file if ".." in within.parts else within).as_posix()

    def models(self) -> list[Path]:
        """The networks that the run has saved."""
        return [path for path in (self.checkpoint, self.best, *self.kept_epochs().values()) if os.path.lexists(path)]

    def _made(self):
        """The networks and test results that are here."""
        return self.models() + matching(self.path, "eval.txt")

    def _only_begun(self):
        """Whether nothing is there but the checkpoint that a run writes before its first step."""
        with contextlib.suppress(KeyError, TypeError, UserError):
            state = read_torch_file(self.checkpoint)
            return self._made() == [self.checkpoint] and state["epoch"] + state["batch"] == 0
        return False

    def kept_epochs(self) -> dict[int, Path]:
        """{epoch: file} of the networks that --save_models kept."""
        return {int(path.name.removeprefix("model_").removesuffix(".pth.tar")): path
                for path in matching(self.path, "model/model_[0-9]*.pth.tar")}

    def make(self, *, reset: bool = False, archive: bool = False) -> None:
        """Make the folder. reset: delete the run that was here; archive: keep it aside instead. Raises UserError."""
        if reset and self.path.exists() and not self.is_run():
            raise UserError(f"--reset: {self.path} is not a run of this program (no config.txt); nothing was deleted")
        with claims.writing(self.path):
            if reset and self.path.exists():
                with self.claimed(), self._untested():
                    self._delete()
            elif archive and self._made() and not self._only_begun():
                with self.claimed(), self._untested(), holding_signals():
                    self._archive()
            (self._behind_link / "model").mkdir(parents=True, exist_ok=True)
            if self.rewound:  # at once, so that a start that is killed leaves a run that goes on
                _copy(self.continued, self.checkpoint)

    def describe(self, config_text: str) -> None:
        """Add the time and the options of this start to config.txt. Raises UserError."""
        self.append("config.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{config_text}\n\n")

    def append(self, name: str, text: str) -> None:
        """Add lines to a text file; a half line that a killed process left there is ended first. Raises UserError."""
        path = self.path / name
        if os.path.exists(path):
            check_file(path)
        try:
            with open(path, "a+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                whole = file.read(1) in (b"", b"\n")
                file.write((("" if whole else "\n") + text).encode(errors="backslashreplace"))
        except OSError as error:
            raise UserError(f"{path}: can't be written ({error.strerror})") from error

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other training runs out of the folder, which exists; the system ends the claim with the process.

        Files that killed runs left unfinished are removed, unless a test is at work. Raises UserError where another
        process trains here.
        """
        with claims.training(self.path):
            with claims.writing(self.path), claims.no_tests(self.path) as untested:
                for path in own_files(self.path):
                    if untested and path.name.startswith(UNFINISHED):
                        path.unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def _untested(self):
        with claims.no_tests(self.path) as untested:
            if not untested:
                raise UserError(f"{self.place}: a test is running in it; wait for it, or end it first")
            yield

    def _delete(self):
        """Delete the run's files, and its folders where nothing else is in them."""
        files = own_files(self.path)
        for file in files:
            try:
                file.unlink()
            except OSError as error:
                raise UserError(f"--reset: {file} can't be deleted ({error.strerror}); what is left of the run is in "
                                f"{self.path}") from error
        self._remove_empty(files)

    def _remove_empty(self, files):
        for folder in {file.parent for file in files} - {self.path}:
            with contextlib.suppress(OSError):  # others' files are in it
                folder.rmdir()

    def _archive(self):
        """Move the run's files aside; in one step where nothing else is in the folder."""
        folder = self._behind_link  # the link stays
        aside = free_old_name(folder)
        files = own_files(self.path)
        ours = {*files, self.path / claims.TRAINING, self.path / claims.TESTS}
        with contextlib.suppress(OSError):  # Windows renames no folder in which a file is open
            if {path for path in self.path.rglob("*") if path.is_symlink() or not path.is_dir()} <= ours:
                folder.rename(aside)
                files = []
        self._move(files, aside)
        if self.continued is not None and self.continued.resolve().is_relative_to(self.path.resolve()):
            self.continued, self.rewound = aside / "model" / self.continued.name, True
        log.info("the run that was in %s is kept in %s", self.path, aside)

    def _move(self, files, aside):
        for file in reversed(files):  # the models last: killed on the way, the run can still be continued
            target = aside / file.relative_to(self.path)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)
            except OSError as error:
                raise UserError(f"{self.place}: {file} can't be moved to {aside} ({error.strerror}), where the "
                                "run's other files are now; move it there") from error
        self._remove_empty(files)

    def adopt(self, *, epoch: int, best: dict[str, Any]) -> bool:
        """Bring the models of a run that continues after `epoch` here; returns whether model_best is that of `best`.

        best: {"psnr", "epoch"} as checkpoints have it. A model_best of another run or of a later epoch is moved
        aside. One of the next epoch stays: a run that was killed between two writes left it, and will write it again.
        """
        if self.continued is None:
            return True
        origin = self.continued.parent
        kept = RunFolder(origin.parent).kept_epochs() if self.rewound else {}
        for number, file in kept.items():
            if number <= epoch:
                _copy(file, self.best.with_name(file.name))
        found = best_of(self.best)
        if found == best or best["epoch"] == 0 and found is None:
            return True
        if found is not None and found["epoch"] != epoch + 1:
            aside = free_old_name(self.best, suffix=".pth.tar")
            self.best.rename(aside)
            log.info("%s is of another run, a later epoch or another test; it is kept in %s", self.best, aside)
        for folder in (origin, *(path / "model" for path in self._aside())):  # a start that was killed left it there
            for file in (folder / self.best.name, folder / f"model_{best['epoch']}.pth.tar"):
                if best_of(file) == best:
                    _copy(file, self.best)
                    return True
        return best["epoch"] == 0


def _copy(source, target):
    """Copy a file that is replaced, never changed: a link is enough where the disk has such."""
    try:
        os.link(source, target)
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
