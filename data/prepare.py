"""Make a data set for training or testing from a folder of HR images, with LR images equal to MATLAB's.

python -m data.prepare --hr DIR --out datasets/DIV2K
python -m data.prepare --hr DIR --out datasets/benchmark/Set5 --layout benchmark

Files that are there are compared with what belongs there and never overwritten, missing ones are made: a run that was
cut off goes on where it stopped, and a finished one is checked.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data.images import named_path
from data.imresize import BORDERS
from data.layout import LAYOUTS
from data.prepare_image import Job, Outcome, make, verify
from data.prepare_plan import NAMES_FILE, SETTINGS_FILE, plan, write_json
from utility import UserError, add_force, check_output, first_line, remove_unfinished, run_main, whole_number

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
METHOD = "MATLAB's imresize(image, 1/scale, 'bicubic') of the 8-bit image, cropped to a multiple of the scale"
SHOWN = 10


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description=first_line(__doc__))
    parser.add_argument("--hr", type=named_path, required=True, help="folder of HR images, of any format")
    parser.add_argument("--out", type=named_path, required=True, help="root of the data set, such as datasets/DIV2K")
    parser.add_argument("--scales", type=partial(_whole, least=2, most=1000), nargs="+", default=[2, 3, 4],
                        help="default: 2 3 4")
    parser.add_argument("--layout", choices=LAYOUTS, default="div2k", help="div2k (default): DIV2K_train_HR/0001.png, "
                        f"images with names of another kind are numbered and listed in {NAMES_FILE}; benchmark: "
                        "HR/name.png")
    parser.add_argument("--border", choices=BORDERS, default=BORDERS[0], help="what lies outside an image: symmetric "
                        "(default), as in today's MATLAB and the published data sets, or replicate, as in old MATLAB")
    parser.add_argument("--workers", type=partial(_whole, least=1, most=1024), default=os.cpu_count(),
                        help="processes (default: one per core)")
    add_force(parser)
    return parser.parse_args(argv)


def _whole(text, *, least, most):
    number = whole_number(text)
    if number is None or not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text:.40} is no whole number from {least} to {most}")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    scales = sorted(set(args.scales))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_output(args.out / SETTINGS_FILE, flag="--out", mark=b'"method"', force=args.force)
    settings = {"layout": args.layout, "border": args.border, "scales": scales, "method": METHOD}
    try:
        jobs, numbers = plan(args.hr, args.out, LAYOUTS[args.layout], scales=scales, border=args.border)
        total = prepare(jobs, args.out, settings, numbers, workers=args.workers)
    except OSError as error:
        place = f"--out {args.out}: {error.filename or 'a file'}: {error.strerror or error}"
        raise UserError(f"{place}; mend that and run the same command again to go on") from None
    except BrokenProcessPool:
        lack = "a process was killed, often for lack of memory"
        raise UserError(f"--workers {args.workers}: {lack}; go on with fewer of them") from None
    return report(args.out, total)


def prepare(jobs: Sequence[Job], out: Path, settings: dict, numbers: dict[str, str], *, workers: int = 1) -> Outcome:
    """Carry out the jobs, and keep settings and given names beside the images. Returns the total Outcome.

    Everything that is there is verified first; where a file differs, nothing is written.
    """
    total = run(verify, [job for job in jobs if job.files(there=True)], workers)
    if total.differing:
        return total
    write_json(out / SETTINGS_FILE, settings)
    remove_unfinished(out)
    if numbers:
        write_json(out / NAMES_FILE, numbers)
    total.add(run(make, [job for job in jobs if job.files(there=False)], workers))
    return total


def run(step: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int) -> Outcome:
    """`step` on every job, in `workers` processes, with a progress bar on a terminal. Returns the total Outcome."""
    total = Outcome()
    outcomes = map(step, jobs) if min(workers, len(jobs)) < 2 else _in_processes(step, jobs, workers)
    for outcome in tqdm(outcomes, total=len(jobs), desc=step.__name__, unit=" images", disable=None):
        total.add(outcome)
    return total


def _in_processes(step, jobs, workers):
    os.environ.update(ONE_THREAD)  # the new processes read it when they load NumPy
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=spawn, initializer=_live_with_the_parent) as pool:
        yield from pool.map(step, jobs)


def _live_with_the_parent():
    """Let a worker ignore Ctrl-C, which its parent handles, and end when the parent has ended, for whatever reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after_the_parent, daemon=True).start()


def _end_after_the_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def report(out: Path, total: Outcome) -> int:
    """Print what was done and what went wrong; returns the exit code."""
    for path in total.differing[:SHOWN]:
        print(f"error: {path}: differs from what belongs there; remove it, or choose another --out", file=sys.stderr)
    if len(total.differing) > SHOWN:
        print(f"error: and {len(total.differing) - SHOWN} more files that differ", file=sys.stderr)
    for problem in total.problems:
        print(f"error: {problem}", file=sys.stderr)
    refused = "; nothing was written, because files differ" if total.differing else ""
    print(f"{out}: {total.written} files written, {total.verified} verified{refused}")
    return 1 if total.differing or total.problems else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
