"""One table of the test results of any number of runs, beside the published figures.

    python -m metrics.report RUN [RUN ...] [--csv FILE]

Each run folder holds `eval.txt`, one JSON object a line per test pass and set; the last line of a (model, scale, set,
bits) counts. A test with --self_ensemble is marked by a + behind the model, as in the literature. The table goes to
stdout as Markdown; `--csv` also writes it with every digit.
"""

import argparse
import csv
import functools
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.registry import title
from utility import FULL_PRECISION, UserError, add_force, atomic_path, check_file, check_output, first_line, run_main

log = logging.getLogger(__name__)

EXPERIMENTS = Path("../experiment")
PUBLISHED = Path(__file__).with_name("published.csv")
CSV_FIELDS = (
    "model,scale,set,k_bits,psnr,ssim,published_psnr,published_ssim,psnr_difference,ssim_difference,images,epoch,run"
).split(",")


@dataclass(frozen=True)
class Result:
    """Mean PSNR (dB) and SSIM of one network on one set; published figures have no `images`, `epoch` and `run`."""

    model: str
    scale: int
    set: str
    k_bits: int
    psnr: float
    ssim: float
    images: int | None = None
    epoch: int | None = None
    run: str = ""

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.model, self.scale, self.set, self.k_bits


@functools.cache
def published_results() -> dict[tuple[str, int, str, int], Result]:
    """The figures of published.csv as dict: (model, scale, set, bits) -> Result."""
    with open(PUBLISHED, encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        results = [_result(row) for row in rows]
    return {result.key: result for result in results}


def read_run(run: str | Path) -> list[Result]:
    """The results of one run, last line per key, in the order of the first lines.

    run: folder with `eval.txt`, or its name below ../experiment. Sets without HR images have no figures and are left
    out; so are lines that a killed run wrote half, which the log tells. Raises UserError naming folder, file or line.
    """
    path = run_folder(run) / "eval.txt"
    results = {}
    for number, values in result_lines(path):
        try:
            if values["psnr"] is None:
                continue
            result = _result(values, run=str(run))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            reason = f"no line of results ({error!r:.100}); remove it or test again"
            raise UserError(f"{path}, line {number}: {reason}") from None
        results[result.key] = result
    return list(results.values())


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

    Differences are between the figures as printed. A column with the run follows where two rows would look alike.
    """
    results = sorted(results, key=_order)
    tell_runs = len({result.key for result in results}) < len(results)
    header = ["Model", "Dataset", "Bit", "PSNR/SSIM", "Published", "Difference"] + ["Run"] * tell_runs
    rows = [_markdown_cells(result) + [result.run] * tell_runs for result in results]
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
        published = published_results().get(result.key)
        if published:
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
    results = [result for run in dict.fromkeys(options.runs) for result in read_run(run)]
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
    return Result(model, int(values["scale"]), values["set"], int(values["k_bits"]),
                  float(values["psnr"]), float(values["ssim"]), values.get("images"), values.get("epoch"), run)


def _order(result):
    """The order of published.csv: network, large scale first, the benchmark sets as listed there, bits rising."""
    sets = list(dict.fromkeys(key[2] for key in published_results()))
    position = sets.index(result.set) if result.set in sets else len(sets)
    return result.model, -result.scale, position, result.set, result.k_bits, result.run


def _markdown_cells(result):
    name = result.model.removesuffix("+")
    model = f"{title(name)}{result.model[len(name):]}x{result.scale}"
    bits = "FP" if result.k_bits == FULL_PRECISION else str(result.k_bits)
    cells = [model, result.set, bits, f"{result.psnr:.2f}/{result.ssim:.3f}"]
    published = published_results().get(result.key)
    if not published:
        return [*cells, "-", "-"]
    # adding 0.0 turns -0.0 into 0.0
    psnr = round(round(result.psnr, 2) - published.psnr, 2) + 0.0
    ssim = round(round(result.ssim, 3) - published.ssim, 3) + 0.0
    return [*cells, f"{published.psnr:.2f}/{published.ssim:.3f}", f"{psnr:+.2f}/{ssim:+.3f}"]


if __name__ == "__main__":
    sys.exit(run_main(main))
