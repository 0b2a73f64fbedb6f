"""Speed of loading training patches, beside unpickling a whole 2040x1404 image (and its LR image) for every patch.

python benchmarks/data_loading.py [--images 12] [--patches 320] [--runs 9] [--scale 4] [--patch_size 192] [--json]

Both candidates cut, turn and convert the same patches of the same images with the same code; they differ in how they
come by the pixels. Counted in two ways: `patch`, one item after the other in this process; `worker`, batches of 16 by
way of a loader with one worker, transport included. All files are in the page cache: 118 MB of them by default.
ms and floor_ms: milliseconds a patch, ours and the baseline's, medians of runs in which the two take turns; ratio:
patches a second over the baseline's; peak_mb_ratio: the same of the largest amount of memory allocated for a patch.
"""

import argparse
import json
import pickle
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cache import DecodedCache  # noqa: E402
from data.datasets import TrainSet  # noqa: E402
from data.image_sets import Pair  # noqa: E402
from data.loader import TrainLoader  # noqa: E402
from data.patches import to_values  # noqa: E402
from data.sampler import TrainSampler  # noqa: E402

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


def seconds_by_turns(run, candidates, runs):
    """Median seconds of run(candidate), after one run of each that is not counted."""
    seconds = {name: [] for name in candidates}
    for number in range(runs + 1):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            run(candidate)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_bytes(train_set, keys):
    tracemalloc.start()
    for key in keys[:10]:
        train_set[key]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(args, folder):
    """One result for each way of counting."""
    pairs = make_images(folder, args.images, args.scale)
    n_batches = -(-args.patches // BATCH_SIZE)
    sampler = TrainSampler(len(pairs), seed=1, batch_size=BATCH_SIZE, n_batches=n_batches)
    keys = list(sampler)
    sets = {
        name: TrainSet(
            [(pair, read) for pair in pairs], scale=args.scale, lr_patch=args.patch_size // args.scale, seed=1
        )
        for name, read in readers(folder, pairs).items()
    }
    if not all(
        np.array_equal(ours, other) for ours, other in zip(*(s[keys[0]][:2] for s in sets.values()), strict=True)
    ):
        raise AssertionError("the two candidates give different patches")
    loaders = {name: TrainLoader(train_set, sampler, n_threads=1) for name, train_set in sets.items()}
    ways = {
        "patch": seconds_by_turns(lambda train_set: load_one_by_one(train_set, keys), sets, args.runs),
        "worker": seconds_by_turns(load_epoch, loaders, args.runs),
    }
    peaks = {name: peak_bytes(train_set, keys) for name, train_set in sets.items()}
    for way, seconds in ways.items():
        ms = {name: 1000 * value / len(keys) for name, value in seconds.items()}
        yield {
            "bench": f"data_loading_{way}",
            "model": None,
            "device": "cpu",
            "ratio": round(ms["baseline"] / ms["ours"], 2),
            "floor_ms": round(ms["baseline"], 4),
            "ms": round(ms["ours"], 4),
            "peak_mb_ratio": round(peaks["ours"] / peaks["baseline"], 4),
        }


def load_one_by_one(train_set, keys):
    for key in keys:
        for patch in train_set[key][:2]:
            to_values(torch.from_numpy(np.array(patch, order="C")))


def load_epoch(loader):
    for _ in loader:
        pass


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="how many images there are (default 12)")
    parser.add_argument("--patches", type=int, default=320, help="patches in a run, made whole batches (default 320)")
    parser.add_argument("--runs", type=int, default=9, help="how often each candidate runs (default 9)")
    parser.add_argument("--scale", type=int, default=4, help="HR over LR (default 4)")
    parser.add_argument("--patch_size", type=int, default=192, help="HR pixels (default 192)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # as a worker has it
    with tempfile.TemporaryDirectory() as folder:
        for result in measure(args, Path(folder)):
            if args.json:
                print(json.dumps(result))
            else:
                print("{bench:20} {ms:8.3f} ms a patch, baseline {floor_ms:.3f} ms: {ratio:.1f}x".format(**result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
