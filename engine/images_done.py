"""--continue_test: what a test has done, image by image, so that it goes on where it was stopped."""

import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.checkpoint import fingerprint
from engine.run_folder import RunFolder
from model.saved import file_hash
from utility import check_file

log = logging.getLogger(__name__)
Row = tuple[list[float] | None, float]  # PSNR and SSIM, None without HR; seconds


class ImagesDone:
    """The images of one set that are done: a line of JSON each in the run's tested-<set>.jsonl, until the test ends.

    conditions: what the figures depend on besides the image, as plain values. An image is known by them and its pixels.
    Raises UserError for a tested-<set>.jsonl that can't be read.
    """

    def __init__(self, run: RunFolder, set_name: str, conditions: Mapping[str, Any]) -> None:
        self.run, self.file = run, f"tested-{set_name}.jsonl"
        self.conditions = dict(conditions)
        self.rows = self._read()
        if self.rows:
            log.info("%s: %d images were tested before, those of the same network and flags are left out", set_name,
                     len(self.rows))

    def key(self, lr: Tensor, hr: Tensor | None) -> str:
        """What an image is known by."""
        return fingerprint([self.conditions, lr, hr]).numpy().tobytes().hex()

    def find(self, key: str, paths: Iterable[Path]) -> Row | None:
        """What was found for an image; None if it is to be tested, as where a picture of it is not the one written."""
        found = self.rows.get(key)
        return found and found[0] if found and _hashes(paths) == found[1] else None

    def add(self, key: str, row: Row, *, writing: Mapping[Path, Future[None]]) -> None:
        """Keep what was found for an image, once its pictures are written: {path: what writes it}."""
        for picture in writing.values():
            picture.result()
        line = {"key": key, "figures": row[0], "seconds": row[1], "pictures": _hashes(writing)}
        self.run.append(self.file, json.dumps(line) + "\n")

    def forget(self) -> None:
        """End the record: the next test of the set begins anew."""
        (self.run.path / self.file).unlink(missing_ok=True)

    def _read(self):
        path = self.run.path / self.file
        if not path.exists():
            return {}
        check_file(path)
        return dict(filter(None, map(_row_of, path.read_text(encoding="utf-8", errors="replace").splitlines())))


def _hashes(paths):
    """SHA-256 of each file, "" of one that is gone: another network's test may have written such pictures."""
    return [file_hash(path) if path.is_file() else "" for path in paths]


def _row_of(line):
    """(key, (Row, hashes of the pictures)) of a line; None for one that a killed process wrote half."""
    try:
        row = json.loads(line)
        figures = row["figures"]
        found = figures and [float(value) for value in figures], float(row["seconds"])
        return str(row["key"]), (found, list(row["pictures"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
