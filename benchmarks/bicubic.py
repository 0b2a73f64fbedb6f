"""Speed of `data.imresize` on one core, beside a plain NumPy port of the same algorithm and Pillow's bicubic.

python benchmarks/bicubic.py [--scale 4] [--height 1356 --width 2040] [--runs 15] [--json]

Prints megapixels of input per second: the median over runs in which the candidates take turns. Pillow is there for
scale only, its pixels differ from MATLAB's; the port must give the same pixels as ours, or the script fails.
"""

import functools
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import argument_parser, milliseconds, show  # noqa: E402
from data.imresize import contributions, imresize  # noqa: E402
from utility import run_main  # noqa: E402

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def numpy_port(image, scale):
    """The algorithm as one would first write it: the whole image in float64, one tap after the other, per axis."""
    for axis in (0, 1):
        length = image.shape[axis]
        weights, indices = contributions(length, int(np.ceil(length * scale)), scale)
        rows = np.moveaxis(image, axis, 0).astype(np.float64)
        sums = sum(weights[:, tap, None, None] * rows[indices[:, tap]] for tap in range(weights.shape[1]))
        image = np.moveaxis(np.clip(np.floor(sums + 0.5), 0, 255).astype(np.uint8), 0, axis)
    return image


def pillow(image, scale):
    height, width = image.shape[:2]
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def measure(height, width, factor, runs):
    """{name: median milliseconds} of each candidate, for one image of random pixels."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if not np.array_equal(imresize(image, 1 / factor), numpy_port(image, 1 / factor)):
        raise AssertionError("data.imresize and the NumPy port give different pixels")
    candidates = {"data.imresize": imresize, "NumPy port": numpy_port, "Pillow": pillow}
    return milliseconds({name: functools.partial(resize, image, 1 / factor) for name, resize in candidates.items()},
                        repeats=runs)


def main(argv=None):
    args = argument_parser(__doc__, scale=4.0, height=1356, width=2040, runs=15).parse_args(argv)

    os.environ.update(ONE_THREAD)  # read when NumPy is loaded, hence the fresh process
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        ms = pool.submit(measure, args.height, args.width, args.scale, args.runs).result()

    speed = {name: args.height * args.width / 1e3 / value for name, value in ms.items()}
    result = {"scale": args.scale, "height": args.height, "width": args.width, "runs": args.runs}
    show({**result, "megapixels_per_second": speed}, args.json, text)


def text(one):
    """The result as lines."""
    speed = one["megapixels_per_second"]
    lines = [f"{name:14} {value:8.1f} MP/s  {value / speed['NumPy port']:6.1f}x" for name, value in speed.items()]
    return "\n".join(["{width}x{height} RGB, 1/{scale:g}, one thread, median of {runs} runs".format_map(one), *lines])


if __name__ == "__main__":
    sys.exit(run_main(main))
