"""The runs of `make networks`: which are there, and whether they are the ones that the budget means."""

import json

from engine.run_folder import RunFolder
from option import EXPERIMENT_ROOT
from quant.deploy.packed import file_hash
from utility import atomic_path, free_old_name


def folder_of(run):
    return RunFolder(EXPERIMENT_ROOT / run)


def resumed(run):
    """The flag that continues a run, where it has begun."""
    return ["--resume"] if folder_of(run).checkpoint.is_file() else []


def continued(run, recipe, start):
    """`resumed` of a run that began by these numbers and with this file; any other one is moved aside.

    What a run begins by is kept in its folder, in made_of.json. start: the file, or None.
    """
    folder = folder_of(run).path
    note, made_of = folder / "made_of.json", {"recipe": recipe, "start": start and file_hash(start)}
    if folder.exists() and not (note.is_file() and json.loads(note.read_text()) == made_of):
        folder.rename(free_old_name(folder))
    with atomic_path(note) as path:
        path.write_text(json.dumps(made_of))
    return resumed(run)
