"""The figures in a run's eval.txt, and those that are published.

A run has the figures of the network that it kept as model_best: of the last test, or of its epoch in training; tests of
an earlier one are left out. Other files, runtimes and images that were tested into the same folder stand beside them.
"""

import csv
import functools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.layout import BENCHMARKS
from model.saved import BEST, best_of
from utility import UserError, check_file, whole_number

log = logging.getLogger(__name__)

EXPERIMENTS = Path("../experiment")
PUBLISHED = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Result:
    """Mean PSNR (dB) and SSIM of one network on one set; published figures have the first six fields alone.

    epoch: that it was tested after in training, 0 in a test. file, backend: of the test, "" for the run's own network
    and for PyTorch in single precision. In words, variant: the flags of a network that is not published; range: the
    images of a numbered set, as DIV2K.
    """

    model: str
    scale: int
    set: str
    k_bits: int
    psnr: float
    ssim: float
    images: int | None = None
    epoch: int = 0
    run: str = ""
    file: str = ""
    backend: str = ""
    variant: str = ""
    range: str = ""

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.model, self.scale, self.set, self.k_bits

    @property
    def published(self) -> "Result | None":
        """The figures of the same network, set and bits that are published, where all of the set was tested."""
        return None if self.variant or self.lacking else published_results().get(self.key)

    @property
    def lacking(self) -> str:
        """In words, that a part of a benchmark set was tested; empty for all of it, and where nothing tells."""
        whole = BENCHMARKS.get(self.set)
        return f"{self.images} of {whole} images" if whole and self.images not in (None, whole) else ""

    @property
    def row(self) -> tuple:
        """What its row says besides figures and what was tested: rows that are alike need to tell that."""
        return self.key, self.variant

    @property
    def tested(self) -> str:
        """What was tested, in words."""
        return ", ".join(filter(None, (self.run, self.file, self.backend)))


@functools.cache
def published_results() -> dict[tuple[str, int, str, int], Result]:
    """The figures of published.csv as dict: (model, scale, set, bits) -> Result."""
    with open(PUBLISHED, encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        results = [_result(row) for row in rows]
    return {result.key: result for result in results}


def read_run(run: str | Path) -> list[Result]:
    """The results of one run, one for each network, set and runtime that was tested, in the order of the tests.

    run: folder with `eval.txt`, or its name below ../experiment. Sets without HR images have no figures and are left
    out; so are lines that a killed run wrote half, which the log tells. Raises UserError naming folder, file or line.
    """
    folder = run_folder(run)
    path = folder / "eval.txt"
    found = []
    for number, values in result_lines(path):
        try:
            if values["psnr"] is not None:
                found.append(_result(values, run=str(run)))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = f"no line of results ({error!r:.100}); remove it or test again"
            raise UserError(f"{path}, line {number}: {reason}") from None
    kept = _kept_epoch(folder, [result.epoch for result in found if result.epoch])
    began = min((place for place, result in enumerate(found) if kept and result.epoch == kept), default=0)
    results: dict[tuple, Result] = {}
    for place, result in enumerate(found):
        if place < began and not result.epoch and not result.file:
            log.warning("%s: a test on %s is of an earlier %s, left out; test again", folder, result.set, BEST)
        elif not result.epoch or result.epoch == kept:
            key = (result.row, result.file, result.backend, result.images, result.range)
            results.pop(key, None)
            results[key] = result
    return list(results.values())


def _kept_epoch(folder, epochs):
    """The epoch, of those that training tested, whose network the run kept; the last one where it kept none of them."""
    if not epochs:
        return None
    best = best_of(folder / BEST)
    if best is not None and best["epoch"] in epochs:
        return best["epoch"]
    log.warning("%s: %s is of none of the epochs that were tested here, or not there; the last, %d, counts", folder,
                BEST, max(epochs))
    return max(epochs)


def result_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, object) for every line of an `eval.txt`; lines that hold no JSON are left out, which the log tells.

    Raises UserError where there is no such file.
    """
    if not path.exists():
        raise UserError(f"{path}: no test results; run the network with --test_only and --save {path.parent} first")
    check_file(path)
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except (ValueError, RecursionError):
            log.warning("%s, line %d: cut short, left out", path, number)


def run_folder(run: str | Path) -> Path:
    """The folder of a run that is given by its path or its name below ../experiment. Raises UserError."""
    for folder in (Path(run), EXPERIMENTS / run):
        if folder.is_dir():
            return folder
    raise UserError(f"{run}: no such run folder, here or below {EXPERIMENTS}; give the folder that holds eval.txt")


def _result(values, run=""):
    """The Result of one line. Raises ValueError and the like for values that no test writes."""
    for name in ("set", "model"):
        if not isinstance(values[name], str):
            raise TypeError(f"{values[name]!r} is no name")
    model = str(values["model"]).lower() + ("+" if values.get("self_ensemble") else "")
    file, epoch = str(values.get("file", "")), _whole(values.get("epoch") or 0)
    backend = ", ".join(str(values[name]) for name in ("backend", "precision") if name in values)
    variant = ", ".join(f"{name} {value}" for name, value in values.get("variant", {}).items())
    images = None if values.get("images") is None else _whole(values["images"])
    return Result(model, _whole(values["scale"]), values["set"], _whole(values["k_bits"]),
                  _number(values["psnr"]), _number(values["ssim"]), images, epoch, run,
                  "" if file == BEST else file, backend, variant, " to ".join(map(str, values.get("range", ()))))


def _whole(value):
    """A whole number from 0 on; of published.csv, its digits."""
    number = whole_number(value) if isinstance(value, str) else value
    if type(number) is not int or number < 0:
        raise ValueError(f"{value!r} is no whole number")
    return number


def _number(value):
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return float(value)
