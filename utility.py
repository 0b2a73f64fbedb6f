"""What every entry point shares: user errors, atomic files, safe loading."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path


class UserError(Exception):
    """A mistake that the person at the command line can mend.

    The message is one line that names the flag or file, says what is wrong and what to do. Only `run_main` catches it.
    """


def run_main(main):
    """Call `main()`; a UserError becomes one line on stderr and exit code 2. Returns the exit code."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary path beside `path`; move it into place when the block ends well, remove it otherwise.

    Readers see the old file or the whole new one. The new file is flushed to disk before the move.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
