"""One table of the test results of any number of runs, beside the published figures.

    python -m metrics.report RUN [RUN ...] [--csv FILE]

Each run folder holds `eval.txt`, one JSON object a line per test pass and set. A run has the figures of the network
that it kept as model_best: of the last test, or of its epoch in training. Other files that were tested into the same
folder, and tests by another runtime or of another number of images, have rows of their own. A test with
--self_ensemble is marked by a + behind the model, as in the literature; a network that is not one of the published, as
with --quantizer pams, by its flags. The table goes to stdout as Markdown; `--csv` also writes it with every digit.
"""

import argparse
import csv
import functools
import io
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.layout import BENCHMARKS
from model.registry import title
from model.saved import BEST, best_of
from utility import FULL_PRECISION, UserError, add_force, atomic_path, check_file, check_output, first_line, run_main

log = logging.getLogger(__name__)

EXPERIMENTS = Path("../experiment")
PUBLISHED = Path(__file__).with_name("published.csv")
CSV_FIELDS = (
    "model,scale,set,k_bits,psnr,ssim,published_psnr,published_ssim,psnr_difference,ssim_difference,images,epoch,run,"
    "file,backend,variant"
).split(",")


@dataclass(frozen=True)
class Result:
    """Mean PSNR (dB) and SSIM of one network on one set; published figures have the first six fields alone.

    epoch: that it was tested after in training, 0 in a test. file, backend: of the test, "" for the run's own network
    and for PyTorch in single precision. variant: the flags of a network that is not published, in words.
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
    results: dict[tuple, Result] = {}
    for result in found:
        if not result.epoch or result.epoch == kept:
            key = (result.row, result.file, result.backend, result.images)
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


def markdown_table(results: Iterable[Result]) -> str:
    """Markdown with model, set, bits, PSNR/SSIM, the published PSNR/SSIM and the difference; one row a result.

    Differences are between the figures as printed. A column with what was tested follows where two rows would look
    alike, or one is of another network than the run's, or by another runtime than PyTorch.
    """
    results = sorted(results, key=_order)
    tell_runs = len({result.row for result in results}) < len(results) or any(
        result.file or result.backend for result in results)
    alike = Counter((result.row, result.tested) for result in results)
    header = ["Model", "Dataset", "Bit", "PSNR/SSIM", "Published", "Difference"] + ["Run"] * tell_runs
    rows = [_markdown_cells(result) + [result.tested + (
        f", {result.images} images" if alike[result.row, result.tested] > 1 else "")] * tell_runs for result in results]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def csv_table(results: Iterable[Result]) -> str:
    """The same as CSV with all digits measured; fields are empty where nothing is published."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for result in sorted(results, key=_order):
        row = asdict(result)
        if published := result.published:
            row["published_psnr"], row["published_ssim"] = published.psnr, published.ssim
            row["psnr_difference"] = f"{result.psnr - published.psnr:+.6f}"
            row["ssim_difference"] = f"{result.ssim - published.ssim:+.6f}"
        writer.writerow(row)
    return text.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m metrics.report", description=first_line(__doc__))
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or its name below ../experiment")
    parser.add_argument("--csv", metavar="FILE", help="also write the table, with every digit, to this file")
    add_force(parser)
    options = parser.parse_args(argv)
    if options.csv:
        inputs = [PUBLISHED, *(run_folder(run) / "eval.txt" for run in options.runs)]
        check_output(options.csv, flag="--csv", mark=",".join(CSV_FIELDS).encode(), inputs=inputs, force=options.force)
    runs: dict[Path, str] = {}
    for run in options.runs:
        runs.setdefault(run_folder(run).resolve(), run)
    results = [result for run in runs.values() for result in read_run(run)]
    if not results:
        raise UserError(f"{options.runs[0]}: eval.txt holds no PSNR; test on a set with HR images")
    print(markdown_table(results))
    if options.csv:
        with atomic_path(options.csv) as path:
            path.write_text(csv_table(results), encoding="utf-8", errors="backslashreplace")


def run_folder(run: str | Path) -> Path:
    """The folder of a run that is given by its path or its name below ../experiment. Raises UserError."""
    for folder in (Path(run), EXPERIMENTS / run):
        if folder.is_dir():
            return folder
    raise UserError(f"{run}: no such run folder, here or below {EXPERIMENTS}; give the folder that holds eval.txt")


def _result(values, run=""):
    if not isinstance(values["set"], str):
        raise TypeError(f"{values['set']!r} is no name")
    model = str(values["model"]).lower() + ("+" if values.get("self_ensemble") else "")
    file, epoch = str(values.get("file", "")), int(values.get("epoch") or 0)
    backend = ", ".join(str(values[name]) for name in ("backend", "precision") if name in values)
    variant = ", ".join(f"{name} {value}" for name, value in values.get("variant", {}).items())
    return Result(model, int(values["scale"]), values["set"], int(values["k_bits"]),
                  float(values["psnr"]), float(values["ssim"]), values.get("images"), epoch, run,
                  "" if file == BEST else file, backend, variant)


def _order(result):
    """The order of published.csv: network, large scale first, the benchmark sets as listed there, bits rising."""
    sets = list(dict.fromkeys(key[2] for key in published_results()))
    position = sets.index(result.set) if result.set in sets else len(sets)
    return result.model, -result.scale, position, result.set, result.k_bits, result.variant, result.tested


def _markdown_cells(result):
    name = result.model.removesuffix("+")
    model = f"{title(name)}{result.model[len(name):]}x{result.scale}" + (
        f" ({result.variant})" if result.variant else "")
    bits = "FP" if result.k_bits == FULL_PRECISION else str(result.k_bits)
    tested = result.set + (f" ({result.lacking})" if result.lacking else "")
    cells = [model, tested, bits, f"{result.psnr:.2f}/{result.ssim:.3f}"]
    published = result.published
    if not published:
        return [*cells, "-", "-"]
    # adding 0.0 turns -0.0 into 0.0
    psnr = round(round(result.psnr, 2) - published.psnr, 2) + 0.0
    ssim = round(round(result.ssim, 3) - published.ssim, 3) + 0.0
    return [*cells, f"{published.psnr:.2f}/{published.ssim:.3f}", f"{psnr:+.2f}/{ssim:+.3f}"]


if __name__ == "__main__":
    sys.exit(run_main(main))
