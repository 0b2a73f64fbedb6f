"""Figures of a comparison's runs: crops, PSNR over epochs, bounds over training, where the gates sit.

    python -m examples.result_figures --full results/edsr_baseline_x4 --runs output/edsrx4/ddtb_2bit ... \\
        --shown output/edsrx4/pams_2bit output/edsrx4/ddtb_2bit --images Set14/ppt3 B100/253027 --dir_data datasets

Runs are folders or names below ../experiment. Crops need results saved by --save_results, curves what training wrote.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data.images import image_files, read_image
from examples import ROOT
from metrics.figure import crop_figure, save_figure
from metrics.pairs import RESULT_NAME, crop_to
from metrics.results import result_lines, run_folder
from quant import open_network
from quant.activation import with_gates
from utility import MAKER, UserError, add_force, check_output, first_line, run_main, whole_number

QUANTIZERS_SHOWN = 4
DYNAMIC, STATIC = "#c2321f", "#d5dde6"


def main(argv=None):
    """Write the figures, print their paths. Raises UserError for runs that lack what a figure needs."""
    options = parse(argv)
    names = [image.partition("/")[2] for image in options.images]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--images: two are called {twice[0]}, their figures would share a file; draw one at a time")
    figures = {f"crops_{name}.png": draw_crops(image, options)
               for name, image in zip(names, options.images, strict=True)}
    figures["psnr_over_epochs.png"] = draw_psnr(options.runs, options.curve)
    figures["bounds_over_training.png"] = draw_bounds(options.bounds_of or options.runs[0])
    gates = {run: read_gates(run_folder(run)) for run in options.runs}
    if gates := {run: found for run, found in gates.items() if any(found.values())}:
        figures["gate_places.png"] = draw_gates(gates)
    for name in figures:
        check_output(options.out / name, flag="--out", mark=MAKER.encode(), force=options.force)
    for name, figure in figures.items():
        save_figure(figure, options.out / name, dpi=150)
        print(options.out / name)
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    add = parser.add_argument
    add("--full", required=True, help="full-precision run, for the crops")
    add("--runs", nargs="+", required=True, help="quantized runs, for the curves and the gates")
    add("--shown", nargs="+", required=True, help="quantized runs whose crops are shown")
    add("--images", nargs="+", required=True, metavar="SET/NAME", help="images for the crops")
    add("--dir_data", type=Path, default=Path("datasets"), help="data root (default: %(default)s)")
    add("--curve", default="DIV2K", help="set whose PSNR is drawn over epochs (default: %(default)s)")
    add("--bounds_of", help="run whose bounds are drawn (default: the first of --runs)")
    add("--out", type=Path, default=ROOT / "examples" / "figures", help="folder (default: %(default)s)")
    add_force(parser)
    return parser.parse_args(argv)


def labels(runs):
    """{run: its name for a legend}: the last part of its path, where these differ, else all of it."""
    short = {run: Path(run).name.replace("_", " ") for run in runs}
    return short if len(set(short.values())) == len(short) else {run: run for run in short}


def draw_crops(image, options):
    """HR and crops of full precision and of the shown runs."""
    set_name, _, name = image.partition("/")
    hr = read_image(options.dir_data / "benchmark" / set_name / "HR" / f"{name}.png")
    named = {options.full: "full precision", **labels(run for run in options.shown if run != options.full)}
    found = {label: saved_result(run, set_name, name) for run, label in named.items()}
    if len(scales := {scale for _, scale in found.values()}) > 1:
        raise UserError(f"--shown: runs of several scales, {sorted(scales)}; show those of one")
    [scale], results = scales, {label: sr for label, (sr, _) in found.items()}
    return crop_figure(crop_to(hr, next(iter(results.values())), scale=scale), results, border=scale, title=name)


def saved_result(run, set_name, name):
    """(the SR image that a test of the run saved, uint8 [H, W, 3]; its scale)."""
    folder = run_folder(run) / f"results-{set_name}"
    matches = {path: RESULT_NAME.fullmatch(path.stem) for path in (image_files(folder) if folder.is_dir() else [])}
    found = {path: int(match["scale"]) for path, match in matches.items()
             if match and (match["name"], match["kind"]) == (name, "SR")}
    if len(found) != 1:
        raise UserError(f"{folder}: holds {len(found) or 'no'} result{'s' * (len(found) > 1)} of {name}; test the run "
                        "with --save_results, and keep one network's")
    [(path, scale)] = found.items()
    return read_image(path), scale


def draw_psnr(runs, set_name):
    """PSNR on one set after each epoch, a line a run."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=f"PSNR on {set_name} (dB)")
    for run, label in labels(runs).items():
        points = read_curve(run_folder(run), set_name)
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def read_curve(path, set_name):
    """[(epoch, PSNR)] that training wrote, calibration's epoch left out; the last line of an epoch counts."""
    lines = [line for _, line in result_lines(path / "eval.txt")]
    points = {line["epoch"]: line["psnr"] for line in lines if line["set"] == set_name and line["epoch"] > 1}
    if not points:
        raise UserError(f"{path}: its eval.txt has no {set_name} by epoch; --curve names a set tested in training")
    return sorted(points.items())


def read_bounds(path):
    """{quantizer: {"lower": [(epoch, value)], "upper": ...}} from TensorBoard's files."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import
    except ImportError as error:
        raise UserError(f"{path}: its bounds are in TensorBoard files; pip install tensorboard") from error

    board = EventAccumulator(str(path / "run"), size_guidance={"scalars": 0}).Reload()
    bounds = {}
    for tag in board.Tags()["scalars"]:
        if tag.startswith("bounds/"):
            _, quantizer, side = tag.split("/")
            bounds.setdefault(quantizer, {})[side] = [(event.step, event.value) for event in board.Scalars(tag)]
    if not bounds:
        raise UserError(f"{path}: its TensorBoard files hold no bounds; give a quantized run that was trained")
    return bounds


def draw_bounds(run):
    """Both bounds of quantizers of a run, spread evenly over the network's depth."""
    bounds = read_bounds(run_folder(run))
    names = sorted(bounds, key=_depth)
    shown = [names[round(i * (len(names) - 1) / (QUANTIZERS_SHOWN - 1))] for i in range(QUANTIZERS_SHOWN)]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for place, name in enumerate(shown, start=1):
        axes = figure.add_subplot(1, QUANTIZERS_SHOWN, place, xlabel="epoch")
        for points in bounds[name].values():
            axes.plot(*zip(*points[1:], strict=True), color=DYNAMIC, linewidth=1.2)
        axes.axhline(0, color="0.7", linewidth=0.6)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.2)
    figure.suptitle(f"bounds over training, {labels([run])[run]}", fontsize=9)
    return figure


def _depth(name):
    return [part if whole_number(part) is None else int(part) for part in name.split(".")][1:]


def read_gates(path):
    """{quantizer: whether it has a gate} of a run's network."""
    return {name: quantizer.dynamic for name, quantizer in with_gates(open_network(path)).items()}


def draw_gates(gates):
    """A grid a run: blocks from left to right, their quantizers from top to bottom, filled where a gate is."""
    figure = Figure(figsize=(7, 0.4 + 0.75 * len(gates)), layout="constrained")
    for place, (label, found) in enumerate(zip(labels(gates).values(), gates.values(), strict=True), start=1):
        axes = figure.add_subplot(len(gates), 1, place)
        rows = sorted({name.rpartition(".")[2] for name in found})
        columns = sorted({name.rpartition(".")[0] for name in found}, key=_depth)
        grid = np.full((len(rows), len(columns)), np.nan)
        for name, dynamic in found.items():
            block, _, quantizer = name.rpartition(".")
            grid[rows.index(quantizer), columns.index(block)] = dynamic
        axes.pcolormesh(grid, cmap=ListedColormap([STATIC, DYNAMIC]), vmin=0, vmax=1, edgecolors="white")
        axes.invert_yaxis()
        axes.set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=7)
        axes.set_xticks([i + 0.5 for i in range(len(columns))], range(len(columns)), fontsize=7)
        axes.set_title(f"{label}: {sum(found.values())} gates, block by block", fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(run_main(main))
