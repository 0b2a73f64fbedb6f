"""Who is at work in a run's folder: one process that trains, any number that test. The claims of dead ones are void.

All raise UserError where the folder can't be written to.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from utility import UserError, lock

TRAINING, TESTS = ".lock", ".tests"


@contextlib.contextmanager
def training(folder: Path) -> Iterator[None]:
    """Keep other training processes out while the block runs. Raises UserError where one is at work."""
    with _opened(folder, TRAINING) as file:
        if not lock(file):
            raise UserError(f"{folder}: another process is training in it; wait for it, or end it first")
        yield


@contextlib.contextmanager
def testing(folder: Path) -> Iterator[None]:
    """Keep new runs, which move or delete what is here, out while the block runs; waits for one that does."""
    with _opened(folder, TESTS) as file:
        lock(file, wait=True, shared=True)
        yield


@contextlib.contextmanager
def no_tests(folder: Path) -> Iterator[bool]:
    """Keep tests out while the block runs; gives False, without waiting, where one is at work."""
    with _opened(folder, TESTS) as file:
        yield lock(file)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system refuses in the block into a UserError that names the run's folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror}); choose another place") from error


def _opened(folder, name):
    with writing(folder):
        return open(folder / name, "a+")
