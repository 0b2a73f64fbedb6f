"""PSNR against bits of every network in pretrained/, and the paper's: `python -m examples.bits_figure [--out FILE]`."""

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure

from examples.demo import ROOT
from examples.results import read_shipped
from metrics.figure import save_figure
from metrics.report import FULL_PRECISION, published_results
from model.registry import NETWORKS
from utility import MAKER, add_force, check_output, first_line, run_main

SETS = ("Set5", "Urban100")
WIDTHS = (2, 3, 4, FULL_PRECISION)
COLOURS = {"edsr": "#c2321f", "rdn": "#1f5fc2", "srresnet": "#2d8a3e"}
OURS = ("", "calibrated bounds")  # full precision, and the variant that is drawn


def main(argv=None):
    """Write the figure and print its path. Raises UserError where models.json can't be read."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "figures" / "bits.png",
                        help="picture to write (default: %(default)s)")
    parser.add_argument("--pretrained", type=Path, default=ROOT / "pretrained", help="folder of models.json")
    add_force(parser)
    options = parser.parse_args(argv)
    check_output(options.out, flag="--out", mark=MAKER.encode(), force=options.force)
    save_figure(draw(own_results(options.pretrained)), options.out, dpi=150)
    print(options.out)
    return 0


def own_results(folder):
    """{(model, scale, set, bits): PSNR} of what is shipped, and of full precision where it is too large to be."""
    return {(entry.model, entry.scale, name, entry.k_bits): psnr for entry in read_shipped(folder)
            if (entry.shipped or entry.k_bits == FULL_PRECISION) and entry.variant in OURS
            for name, (psnr, _) in entry.results.items()}


def draw(own):
    """A panel for each scale and set of SETS, a line for each network."""
    paper = {key: result.psnr for key, result in published_results().items()}
    figure = Figure(figsize=(8, 6), layout="constrained")
    for place, (scale, name) in enumerate(((scale, name) for scale in (2, 4) for name in SETS), start=1):
        axes = figure.add_subplot(2, 2, place, title=f"{name} x{scale}", ylabel="PSNR (dB)")
        for model, record in NETWORKS.items():
            for found, style, whose in ((own, "-o", "here"), (paper, "--", "paper")):
                points = [(x, found[model, scale, name, bits]) for x, bits in enumerate(WIDTHS)
                          if (model, scale, name, bits) in found]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=COLOURS.get(model), markersize=4, linewidth=1.2,
                              label=f"{record.title}, {whose}")
        axes.set_xticks(range(len(WIDTHS)), ["2 bit", "3", "4", "full"])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="lower right")
    return figure


if __name__ == "__main__":
    sys.exit(run_main(main))
