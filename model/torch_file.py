"""What torch.save wrote: read without running code, written whole or not at all."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utility import UserError, atomic_path, check_file


def save_torch_file(value: Any, path: str | Path) -> None:
    """Write `value` (tensors and plain values) atomically. Raises UserError; what was there before then stays.

    Equal values give equal bytes: torch writes the name of the file into it unless it is handed an open one.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(value, file)


def read_torch_file(path: str | Path) -> Any:
    """What torch.save wrote, on the CPU; nothing in the file is executed. Raises UserError for any other file."""
    path = Path(path)
    check_file(path)
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
    """Types of plain data that people store beside weights: arguments, and NumPy's values by old and new names."""
    core = np._core.multiarray
    named = [(getattr(core, name), f"numpy.{place}.multiarray.{name}") for name in ("scalar", "_reconstruct")
             for place in ("core", "_core")]
    dtypes = [type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    return [argparse.Namespace, *named, np.ndarray, np.dtype, *dtypes]
