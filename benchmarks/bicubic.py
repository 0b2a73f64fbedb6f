"""Speed of `data.imresize` on one core, beside a plain NumPy port of the same algorithm and Pillow's bicubic.

python benchmarks/bicubic.py [--scale 4] [--height 1356 --width 2040] [--runs 15] [--json]

Prints megapixels of input per second: the median over runs in which the candidates take turns. Pillow is there for
scale only, its pixels differ from MATLAB's; the port must give the same pixels as ours, or the script fails.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.imresize import contributions, imresize  # noqa: E402

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
    """Median seconds of each candidate, as {name: seconds}, for one image of random pixels."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    candidates = {"data.imresize": imresize, "NumPy port": numpy_port, "Pillow": pillow}
    if not np.array_equal(imresize(image, 1 / factor), numpy_port(image, 1 / factor)):
        raise AssertionError("data.imresize and the NumPy port give different pixels")
    seconds = {name: [] for name in candidates}
    for _ in range(runs):
        for name, resize in candidates.items():
            start = time.perf_counter()
            resize(image, 1 / factor)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=4, help="how many times smaller the output is (default 4)")
    parser.add_argument("--height", type=int, default=1356, help="rows of the input (default: a DIV2K image)")
    parser.add_argument("--width", type=int, default=2040, help="columns of the input")
    parser.add_argument("--runs", type=int, default=15, help="how often each candidate runs (default 15)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)

    os.environ.update(ONE_THREAD)  # read when NumPy is loaded, hence the fresh process
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds = pool.submit(measure, args.height, args.width, args.scale, args.runs).result()

    megapixels = args.height * args.width / 1e6
    speed = {name: megapixels / value for name, value in seconds.items()}
    if args.json:
        result = {"scale": args.scale, "height": args.height, "width": args.width, "runs": args.runs}
        print(json.dumps(result | {"megapixels_per_second": speed}))
        return 0
    print(f"{args.width}x{args.height} RGB, 1/{args.scale:g}, one thread, median of {args.runs} runs")
    for name, value in speed.items():
        print(f"{name:14} {value:8.1f} MP/s  {value / speed['NumPy port']:6.1f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
