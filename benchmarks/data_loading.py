"""Speed of loading training patches, beside unpickling a whole 2040x1404 image (and its LR image) for every patch.

python benchmarks/data_loading.py [--images 12] [--patches 320] [--runs 9] [--scale 4] [--patch_size 192] [--json]

Both candidates cut, turn and convert the same patches of the same images with the same code; they differ in how they
come by the pixels. Counted in two ways: `patch`, one item after the other in this process; `worker`, batches of 16 by
way of a loader with one worker, transport included. All files are in the page cache: 118 MB of them by default.
ms and floor_ms: milliseconds a patch, ours and the baseline's, medians of runs in which the two take turns; ratio:
patches a second over the baseline's; peak_mb_ratio: the same of the largest amount of memory allocated for a patch.
"""

import pickle
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import argument_parser, milliseconds, show  # noqa: E402
from data.cache import DecodedCache  # noqa: E402
from data.datasets import TrainSet  # noqa: E402
from data.image_sets import Pair  # noqa: E402
from data.loader import TrainLoader  # noqa: E402
from data.pictures import to_values  # noqa: E402
from data.sampler import TrainSampler  # noqa: E402
from utility import run_main  # noqa: E402

HEIGHT, WIDTH = 1404, 2040
BATCH_SIZE = 16


def make_images(folder, count, scale):
    """Random HR and LR images as BMP and as pickled arrays; returns their pairs."""
    rng = np.random.default_rng(0)
    pairs = [Pair(str(n), folder / f"{n}x{scale}.bmp", folder / f"{n}.bmp") for n in range(count)]
    for pair in pairs:
        for path, part in ((pair.lr, scale), (pair.hr, 1)):
            pixels = rng.integers(0, 256, (HEIGHT // part, WIDTH // part, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            path.with_suffix(".pkl").write_bytes(pickle.dumps(pixels))
    return pairs


def unpickle(path):
    with open(path.with_suffix(".pkl"), "rb") as file:
        return pickle.load(file)


def readers(folder, pairs):
    cache = DecodedCache(folder)
    cache.prepare([path for pair in pairs for path in (pair.lr, pair.hr)])
    return {"ours": cache.read, "baseline": unpickle}


def train_set(pairs, read, args):
    return TrainSet([(pair, read) for pair in pairs], scale=args.scale, lr_patch=args.patch_size // args.scale, seed=1)


def peak_bytes(candidate, keys):
    tracemalloc.start()
    for key in keys[:10]:
        candidate[key]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(args, folder):
    """One result for each way of counting."""
    pairs = make_images(folder, args.images, args.scale)
    n_batches = -(-args.patches // BATCH_SIZE)
    sampler = TrainSampler(len(pairs), seed=1, batch_size=BATCH_SIZE, n_batches=n_batches)
    keys = list(sampler)
    sets = {name: train_set(pairs, read, args) for name, read in readers(folder, pairs).items()}
    first = [candidate[keys[0]][:2] for candidate in sets.values()]
    if not all(np.array_equal(ours, other) for ours, other in zip(*first, strict=True)):
        raise AssertionError("the two candidates give different patches")
    peaks = {name: peak_bytes(one, keys) for name, one in sets.items()}
    loaders = {name: TrainLoader(one, sampler, n_threads=1) for name, one in sets.items()}
    ways = {"patch": {name: lambda one=one: load_one_by_one(one, keys) for name, one in sets.items()},
            "worker": {name: lambda one=one: sum(1 for _ in one) for name, one in loaders.items()}}
    for way, candidates in ways.items():
        ms = {name: value / len(keys) for name, value in milliseconds(candidates, repeats=args.runs).items()}
        yield {"bench": f"data_loading_{way}", "model": None, "device": "cpu",
               "ratio": round(ms["baseline"] / ms["ours"], 2), "floor_ms": round(ms["baseline"], 4),
               "ms": round(ms["ours"], 4), "peak_mb_ratio": round(peaks["ours"] / peaks["baseline"], 4)}


def load_one_by_one(candidate, keys):
    for key in keys:
        for patch in candidate[key][:2]:
            to_values(torch.from_numpy(np.array(patch, order="C")))


def main(argv=None):
    args = argument_parser(__doc__, images=12, patches=320, runs=9, scale=4, patch_size=192).parse_args(argv)
    torch.set_num_threads(1)  # as a worker has it
    with tempfile.TemporaryDirectory() as folder:
        for one in measure(args, Path(folder)):
            show(one, args.json, "{bench:20} {ms:8.3f} ms a patch, baseline {floor_ms:.3f} ms: {ratio:.1f}x".format_map)


if __name__ == "__main__":
    sys.exit(run_main(main))
