"""Where a run's folder has its networks, and what their files say of themselves."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from model.torch_file import read_torch_file
from utility import UserError, check_file

log = logging.getLogger(__name__)

BEST, LAST = "model/model_best.pth.tar", "model/checkpoint.pth.tar"


def best_of(file: str | Path) -> dict[str, Any] | None:
    """What a file holds as a run's best network: {"psnr", "epoch"}; None where it is no such, or is not there."""
    try:
        state = read_torch_file(file)
        return state["best"] if state["best"]["epoch"] == state["epoch"] else None
    except (KeyError, TypeError, UserError):
        return None


def file_at(path: str | Path, flag: str = "") -> Path:
    """The file itself, or that of a run's folder. Raises UserError where there is none."""
    if os.path.isdir(path):  # unlike Path.is_dir it raises nothing
        return file_of_run(path, flag)
    check_file(path, flag)
    return Path(path)


def file_of_run(folder: str | Path, flag: str = "") -> Path:
    """The best network of a run, else its last checkpoint, which the log then says. Raises UserError without either."""
    found = best_or_last(folder)
    if found is None:
        other = "" if flag in ("--refine", "--pre_train") else ", or give weights with --refine"
        raise UserError(f"{flag} {folder}: no {BEST} or {LAST} in it; train first{other}".lstrip())
    if found.match(LAST):
        log.info("%s: no best network yet, the last checkpoint is used", folder)
    return found


def best_or_last(folder: str | Path) -> Path | None:
    """The best network of a run, else its last checkpoint; None without either."""
    return next((path for path in (Path(folder) / BEST, Path(folder) / LAST) if os.path.isfile(path)), None)


def same_place(first: str | Path, second: str | Path) -> bool:
    """Whether two paths lead to one file or folder that is there, also by links or by another case of letters."""
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
