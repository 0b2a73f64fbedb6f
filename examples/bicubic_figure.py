"""Where other resizers differ from MATLAB's bicubic, as a figure: `python -m examples.bicubic_figure [--out FILE]`.

A photograph that scikit-image ships, 4 times smaller; each map shows the values that are not MATLAB's.
"""

import argparse
import sys

import numpy as np
import skimage.data
import torch
from matplotlib.figure import Figure
from PIL import Image

from data.imresize import imresize
from metrics.figure import save_figure
from utility import MAKER, add_force, check_output, first_line, run_main

SCALE = 4


def main():
    """Write the figure and print each share."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--out", default="examples/figures/bicubic.png", help="picture to write (%(default)s)")
    add_force(parser)
    options = parser.parse_args()
    check_output(options.out, flag="--out", mark=MAKER.encode(), force=options.force)
    hr = skimage.data.astronaut()
    exact = imresize(hr, 1 / SCALE)
    differing = {name: np.abs(exact.astype(int) - lr) > 0 for name, lr in others(hr).items()}
    figure = Figure(figsize=(9, 2.6))
    show(figure.add_subplot(1, 4, 1), exact, "MATLAB's bicubic\n= data.imresize")
    for place, (name, differs) in enumerate(differing.items(), start=2):
        show(figure.add_subplot(1, 4, place), differs.any(2), f"{name}\n{differs.mean():.1%} of the values differ")
        print(f"{name:30}{differs.mean():8.1%}")
    figure.tight_layout()
    save_figure(figure, options.out, dpi=150)


def others(hr):
    """{name: uint8 [H/4, W/4, 3]}: what else is taken for bicubic."""
    height, width = hr.shape[0] // SCALE, hr.shape[1] // SCALE
    image = torch.from_numpy(hr).permute(2, 0, 1)[None].float()
    interpolated = torch.nn.functional.interpolate(image, (height, width), mode="bicubic", antialias=True)
    return {
        "rounded once, at the end": _to_8_bit(imresize(hr.astype(float), 1 / SCALE)),
        "torch, antialias=True": _to_8_bit(interpolated[0].permute(1, 2, 0).numpy()),
        "Pillow": np.asarray(Image.fromarray(hr).resize((width, height), Image.Resampling.BICUBIC)),
    }


def _to_8_bit(values):
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def show(axes, image, title):
    """One picture without axes."""
    axes.imshow(image, cmap="gray_r")
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


if __name__ == "__main__":
    sys.exit(run_main(main))
