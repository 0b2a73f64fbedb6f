"""What a trained network does with its bounds, as pictures: `python -m quant.inspect CHECKPOINT [--images DIR]`.

For every activation quantizer the distribution of what enters it, with both bounds and the share that is clipped; for
every gate, how far it moves each bound from image to image.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from matplotlib.figure import Figure

from data.demo_set import photograph
from data.images import named_path, read_folder, read_image
from data.imresize import imresize
from data.pictures import to_planes, to_values
from metrics.figure import save_figure
from model.common import SuperResolver
from quant.activation import ActivationQuantizer, quantizers
from quant.deploy.network import given_flags, network_parser
from quant.open import open_network
from utility import MAKER, UserError, add_force, check_output, first_line, run_main

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png",
               "hubble_deep_field.jpg")
BINS = 120
COLUMNS = 6
BOUND_COLOUR, FEATURE_COLOUR = "#c2321f", "#5b7ea4"


@dataclass
class Record:
    """One quantizer over all images: histogram of its input between low and high, bounds and beta of each image."""

    dynamic: bool
    low: float = math.inf
    high: float = -math.inf
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS))
    bounds: list = field(default_factory=list)
    clipped: list = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a quantizer and write two pictures; 1 where an image was left out. Raises UserError."""
    parser = network_parser(first_line(__doc__))
    parser.add_argument("checkpoint", type=named_path, help="a quantized network: a file or a run's folder")
    parser.add_argument("--images", type=named_path,
                        help="folder of LR images (default: photographs of scikit-image, scaled down)")
    parser.add_argument("--out", type=named_path, default="inspect",
                        help="folder for the pictures (default: %(default)s)")
    add_force(parser)
    options = parser.parse_args(argv)
    out = options.out
    inputs = [options.checkpoint, *(options.images.glob("*") if options.images else ())]
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is no folder; give one for the pictures")
    for name in ("bounds.png", "gates.png"):
        check_output(out / name, flag="--out", mark=MAKER.encode(), inputs=inputs, force=options.force)
    network = open_network(options.checkpoint, **given_flags(options))
    if network.source.quant is None:
        raise UserError(f"{options.checkpoint}: is a full-precision network; give a quantized one")
    images, left_out = load_images(options.images, network.scale)
    records = record(network, images)
    print_table(records)
    pictures, older = {out / "bounds.png": draw_distributions(records)}, out / "gates.png"
    if gates := {name: row for name, row in records.items() if row.dynamic}:
        pictures[older] = draw_gates(gates, quantizers(network))
    for path, figure in pictures.items():
        save_figure(figure, path, dpi=150)
    # it would pass for this network's; one of another program stays, --force or not
    if not gates and older.is_file() and MAKER.encode() in (older.read_bytes() or MAKER.encode()):
        older.unlink()
    print(f"pictures: {', '.join(map(str, pictures))}")
    return int(left_out > 0)


def load_images(folder: str | Path | None, scale: int) -> tuple[list[np.ndarray], int]:
    """LR images as uint8 [h, w, 3], and how many of the folder can't be read. Raises UserError where none can."""
    if folder is None:
        return [imresize(read_image(photograph(name)), 1 / scale) for name in PHOTOGRAPHS], 0
    return read_folder(folder, "--images", lambda pixels: pixels)


@torch.inference_mode()
def record(network: SuperResolver, images: Sequence[np.ndarray]) -> dict[str, Record]:
    """Run the network over the images twice, for ranges and for histograms. Returns {quantizer's name: Record}."""
    members = quantizers(network)
    records = {name: Record(quantizer.gated) for name, quantizer in members.items()}
    for observe in (_observe_range, _observe_features):
        hooks = [member.register_forward_pre_hook(partial(observe, records[name])) for name, member in members.items()]
        for image in images:
            network(to_values(to_planes(image), rgb_range=network.rgb_range, n_colors=network.n_colors)[None])
        for hook in hooks:
            hook.remove()
    return records


def _observe_range(row, _, parts):
    low, high = torch.aminmax(torch.cat(parts, 1))
    row.low, row.high = min(row.low, low.item()), max(row.high, high.item())


def _observe_features(row, quantizer, parts):
    x = torch.cat(parts, 1)
    row.counts += torch.histc(x, BINS, row.low, row.high if row.high > row.low else row.low + 1)
    lower, upper = (bound.item() for bound in quantizer.bounds(x))
    row.bounds.append((lower, upper))
    row.clipped.append(((x < lower) | (x > upper)).float().mean().item())


def print_table(records: Mapping[str, Record]) -> None:
    """A line a quantizer: range of the features, mean bounds, share clipped, whether a gate moves them."""
    print(f"{'quantizer':26}{'features':>22}{'bounds':>22}{'clipped':>9}  gate")
    for name, row in records.items():
        lower, upper = (fmean(side) for side in zip(*row.bounds, strict=True))
        features, bounds = f"{row.low:.2f} .. {row.high:.2f}", f"{lower:.2f} .. {upper:.2f}"
        print(f"{name:26}{features:>22}{bounds:>22}{fmean(row.clipped):9.2%}  {'dynamic' if row.dynamic else ''}")


def draw_distributions(records: Mapping[str, Record]) -> Figure:
    """A small picture a quantizer: its input's histogram, the bounds; a band is where a gate puts them."""
    rows = math.ceil(len(records) / COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 1.5 * rows + 0.2))
    figure.subplots_adjust(0.01, 0.2 / rows, 0.99, 1 - 0.15 / rows, wspace=0.08, hspace=0.4)
    for place, (name, row) in enumerate(records.items(), start=1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        edges = torch.linspace(row.low, row.high, BINS + 1)
        axes.stairs((row.counts / row.counts.sum()).tolist(), edges.tolist(), fill=True, color=FEATURE_COLOUR)
        axes.set_yscale("log")
        for side in zip(*row.bounds, strict=True):
            axes.axvline(fmean(side), color=BOUND_COLOUR, linewidth=1)
            axes.axvspan(min(side), max(side), color=BOUND_COLOUR, alpha=0.3, linewidth=0)
        axes.set_title(f"{name}  {fmean(row.clipped):.1%} clipped", fontsize=6, pad=2)
        axes.tick_params(labelsize=5, length=2, pad=1)
        axes.set_yticks([])
    return figure


def draw_gates(records: Mapping[str, Record], members: Mapping[str, ActivationQuantizer]) -> Figure:
    """Each gate's factors on its upper and lower bound, a dot an image; 1 leaves the bound where training put it."""
    figure = Figure(figsize=(8, 1 + 0.28 * len(records)), layout="constrained")
    for place, (title, side) in enumerate((("lower bound", 0), ("upper bound", 1)), start=1):
        axes = figure.add_subplot(1, 2, place, title=f"factor on the {title}")
        for height, (name, row) in enumerate(records.items()):
            alpha = members[name].static_bounds()[side].item()
            factors = [bounds[side] / alpha if alpha else 1.0 for bounds in row.bounds]
            axes.plot(factors, [height] * len(factors), ".", color=BOUND_COLOUR, alpha=0.6)
        axes.axvline(1, color="0.6", linewidth=0.8)
        axes.set_yticks(range(len(records)), list(records) if side == 0 else [""] * len(records), fontsize=7)
        axes.invert_yaxis()
        axes.grid(axis="y", alpha=0.2)
    return figure


if __name__ == "__main__":
    sys.exit(run_main(main))
