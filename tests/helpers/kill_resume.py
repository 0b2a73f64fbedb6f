"""Kill a tiny run at random moments, continue it each time, and compare its end with that of an undisturbed run.

    python tests/helpers/kill_resume.py [--kills 20] [--batches 12] [--checkpoint_every 1] [--full_precision]

Every attempt is a process that ends by SIGKILL wherever it happens to be: in a step, a checkpoint's write, a test, an
image's save. The exit code is 1 unless weights, optimizer, schedule, random state and curves are the same to the bit.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib.backends.backend_agg  # noqa: E402, F401  what takes long to import is here, before the forks
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401
import torch.utils.tensorboard  # noqa: E402, F401

import main_limitrange_incremental  # noqa: E402
import main_ori  # noqa: E402
from data.images import write_png  # noqa: E402
from utility import UNFINISHED, run_main  # noqa: E402

EPOCHS = {False: 4, True: 7}


def main(argv=None):
    """Run the comparison and print a line a kill. Returns the exit code."""
    options = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        os.chdir(work)
        make_data(Path("data"))
        return compare(options)


def parse(argv):
    """The script's own flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how often to kill (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=12, help="batches in an epoch (default: %(default)s)")
    parser.add_argument("--checkpoint_every", type=int, default=1, help="batches between saves (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
    parser.add_argument("--n_threads", type=int, default=1, help="loader workers (default: %(default)s)")
    parser.add_argument("--full_precision", action="store_true", help="kill main_ori.py, not the quantizing program")
    return parser.parse_args(argv)


def compare(options):
    """Undisturbed run, killed run, differences."""
    quantized = not options.full_precision
    start = time.perf_counter()
    if wait(launch("whole", options, quantized)) != 0:
        return 1
    seconds = time.perf_counter() - start
    saves = EPOCHS[quantized] * (options.batches // options.checkpoint_every + 2)
    print(f"undisturbed: {EPOCHS[quantized]} epochs, {saves} saves in {seconds:.1f}s", flush=True)
    moments = random.Random(options.seed)
    for number in range(1, options.kills + 1):
        wanted = moments.randint(0, 3 * saves // (2 * options.kills))
        seen = kill(launch("killed", options, quantized), wanted, moments.uniform(0, 4 * seconds / saves))
        print(f"kill {number:2} after {seen} saves: {what_is_left('killed')}", flush=True)
    if wait(launch("killed", options, quantized)) != 0:
        return 1
    different = differences(*(torch.load(checkpoint_of(name), weights_only=True) for name in ("whole", "killed")))
    leftovers = list(Path("../experiment/killed").rglob(f"{UNFINISHED}*"))
    for place in [*different, *leftovers]:
        print(f"differs: {place}")
    print("different" if different or leftovers else "the same to the bit, nothing left over")
    return 1 if different or leftovers else 0


def checkpoint_of(name):
    """The last checkpoint of a run."""
    return Path("../experiment") / name / "model" / "checkpoint.pth.tar"


def launch(name, options, quantized):
    """Start the training program in a child process (a fork, which has all imports done). Returns its id."""
    argv = ["--cpu", "--n_threads", options.n_threads, "--scale", 2, "--n_feats", 8, "--n_resblocks", 1,
            "--patch_size", 16, "--batch_size", 2, "--test_every", options.batches, "--epochs", EPOCHS[quantized],
            "--dir_data", "data", "--data_range", "1-5/6-6", "--data_test", "DIV2K", "--ext", "img", "--save_results",
            "--dynamic_ratio", 0.5, "--k_bits", 4 if quantized else 32, "--checkpoint_every", options.checkpoint_every,
            "--save", name, "--load", name]
    program = main_limitrange_incremental if quantized else main_ori
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os._exit(run_main(lambda: program.main(list(map(str, argv)))))


def wait(child):
    """The exit code of a child process."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child, saves, delay):
    """Kill a child `delay` seconds after it has saved so many times, or soon after its end. Returns saves seen."""
    seen, last = 0, identity()
    while seen < saves and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if identity() != last:
            seen, last = seen + 1, identity()
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    wait(child)
    return seen


def identity():
    """Changes whenever the killed run's checkpoint does."""
    path = checkpoint_of("killed")
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def what_is_left(name):
    """In words: how far the checkpoint of a run is, and what was cut off half way."""
    unfinished = len(list(Path("../experiment", name).rglob(f"{UNFINISHED}*")))
    tail = f", {unfinished} unfinished file" if unfinished else ""
    if not checkpoint_of(name).is_file():
        return f"no checkpoint yet{tail}"
    state = torch.load(checkpoint_of(name), weights_only=True)
    return f"epoch {state['epoch'] + 1}, batch {state['batch']}{tail}"


def differences(one, other, place="checkpoint"):
    """Where two nested values differ: a list of places, empty for equal ones."""
    if type(one) is not type(other):
        return [place]
    if isinstance(one, dict):
        if list(one) != list(other):
            return [place]
        return [found for key in one for found in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [place]
        return [found for i, pair in enumerate(zip(one, other, strict=True))
                for found in differences(*pair, f"{place}[{i}]")]
    equal = torch.equal(one, other) if torch.is_tensor(one) else one == other
    return [] if equal else [place]


def make_data(root):
    """Six small random images in DIV2K's layout, x2."""
    rng = np.random.default_rng(0)
    for number in range(1, 7):
        lr = rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)
        write_png(root / "DIV2K" / "DIV2K_train_LR_bicubic" / "X2" / f"{number:04d}x2.png", lr)
        write_png(root / "DIV2K" / "DIV2K_train_HR" / f"{number:04d}.png", lr.repeat(2, axis=0).repeat(2, axis=1))


if __name__ == "__main__":
    sys.exit(main())
