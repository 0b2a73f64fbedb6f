"""One table of the test results of any number of runs, beside the published figures.

    python -m metrics.report RUN [RUN ...] [--csv FILE]

Each run folder holds `eval.txt`, one JSON object a line per test pass and set. A run has the figures of the network
that it kept as model_best (metrics/results.py). Other files that were tested into the same folder, and tests by another
runtime or of other images, have rows of their own. A test with --self_ensemble is marked by a + behind the model, as in
the literature; a network that is not one of the published, as with --quantizer pams, by its flags. The table goes to
stdout as Markdown; `--csv` also writes it with every digit.
"""

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from metrics.results import PUBLISHED, Result, published_results, read_run, run_folder
from model.registry import title
from utility import FULL_PRECISION, UserError, add_force, atomic_path, check_output, first_line, run_main

CSV_FIELDS = (
    "model,scale,set,k_bits,psnr,ssim,published_psnr,published_ssim,psnr_difference,ssim_difference,images,epoch,run,"
    "file,backend,variant,range"
).split(",")


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
    rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
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
    part = ", ".join(filter(None, (result.range, result.lacking)))
    tested = result.set + (f" ({part})" if part else "")
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
