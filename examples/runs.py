"""The runs of `make networks`: which are there, and whether they are the ones that the budget means."""

import contextlib
import json

from engine.run_folder import RunFolder
from option import EXPERIMENT_ROOT
from utility import atomic_path, free_old_name

FINISHED = "finished"  # in made_of.json: the network that the run made is listed


def folder_of(run):
    return RunFolder(EXPERIMENT_ROOT / run)


def resumed(run):
    """The flag that continues a run, where it has begun."""
    return ["--resume"] if folder_of(run).checkpoint.is_file() else []


def continued(run, made_of, *, again=False):
    """`resumed` of a run that began by `made_of`, plain values; any other one is moved aside.

    again: so is one whose network is listed already. Raises UserError where another process trains in the folder.
    """
    folder, found = folder_of(run), _read(run)
    was_finished = found.pop(FINISHED, False)
    if found != made_of or again and was_finished:
        if folder.path.exists():
            with folder.claimed():
                folder.path.rename(free_old_name(folder.path))
        _write(run, made_of)
    return resumed(run)


def mark_finished(run):
    """Note that the network that a run made is listed."""
    _write(run, {**_read(run), FINISHED: True})


def _read(run):
    """What a run began by, {} where nothing tells."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder_of(run).path / "made_of.json").read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _write(run, values):
    with atomic_path(folder_of(run).path / "made_of.json") as path:
        path.write_text(json.dumps(values))
