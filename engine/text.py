"""Lines that a run adds to its text files."""

import os
from pathlib import Path

from utility import UserError, check_file


def append_text(path: str | Path, text: str) -> None:
    """Add lines to a text file; a half line that a killed process left there is ended first. Raises UserError."""
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
