"""Make a data set for training or testing from a folder of HR images, with LR images equal to MATLAB's.

python -m data.prepare --hr DIR --out datasets/DIV2K
python -m data.prepare --hr DIR --out datasets/benchmark/Set5 --layout benchmark

Files that are there are compared with what belongs there and never overwritten, missing ones are made: a run that was
cut off goes on where it stopped, and a finished one is checked.
"""

import os

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads: the threads are for several images

import argparse
import contextlib
import filecmp
import logging
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from data.images import PNG_START, has_exif, named_path, read_image, write_png
from data.imresize import BORDERS, imresize
from data.layout import LAYOUTS, images_in
from data.prepare_plan import NAMES_FILE, SETTINGS_FILE, Job, plan, write_json
from utility import (
    UserError,
    add_force,
    atomic_path,
    check_output,
    first_line,
    lock,
    remove_unfinished,
    run_main,
    whole_number,
)

METHOD = "MATLAB's imresize(image, 1/scale, 'bicubic') of the 8-bit image, cropped to a multiple of the scale"
SHOWN = 10
LOCK_FILE = ".prepare.lock"  # in --out, while a run is at work
PNG_HEADER_SIZE = 26
EIGHT_BIT_RGB = b"\x08\x02"


@dataclass
class Outcome:
    """How many files were found right or written, which differ, and one line for each source that is of no use."""

    verified: int = 0
    written: int = 0
    differing: list = field(default_factory=list)
    problems: list = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.verified += other.verified
        self.written += other.written
        self.differing += other.differing
        self.problems += [problem for problem in other.problems if problem not in self.problems]


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description=first_line(__doc__))
    parser.add_argument("--hr", type=named_path, required=True, help="folder of HR images, of any format")
    parser.add_argument("--out", type=named_path, required=True, help="root of the data set, such as datasets/DIV2K")
    parser.add_argument("--scales", type=partial(_whole, least=2, most=1000), nargs="+", default=[2, 3, 4],
                        help="default: 2 3 4")
    parser.add_argument("--layout", choices=LAYOUTS, default="div2k", help="div2k (default): DIV2K_train_HR/0001.png, "
                        f"images with names of another kind are numbered and listed in {NAMES_FILE}; benchmark: "
                        "HR/name.png")
    parser.add_argument("--border", choices=BORDERS, default=BORDERS[0], help="how an image goes on outside: symmetric "
                        "(default), as in today's MATLAB and the published data sets, or replicate, as in old MATLAB")
    parser.add_argument("--workers", type=partial(_whole, least=1, most=1024), default=os.cpu_count(),
                        help="threads (default: one per core)")
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
        with _alone_in(args.out):
            jobs, numbers = plan(args.hr, args.out, LAYOUTS[args.layout], scales=scales, border=args.border)
            total = prepare(jobs, args.out, settings, numbers, workers=args.workers)
    except OSError as error:
        place = f"--out {args.out}: {error.filename or 'a file'}: {error.strerror or error}"
        raise UserError(f"{place}; mend that and run the same command again to go on") from None
    targets = {job.targets[1] for job in jobs}
    others = [path for path in images_in(LAYOUTS[args.layout].hr_folder(args.out)) if path not in targets]
    return report(args.out, total, others)


@contextlib.contextmanager
def _alone_in(out):
    """Keep other runs of this program out of a folder while the block runs. One that is made for this goes if empty."""
    with contextlib.ExitStack() as stack:
        if not out.exists():
            stack.callback(_if_allowed, out.rmdir)  # where others have put something in it, it stays
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be mixed up
            out.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(out / LOCK_FILE, "a+"))
            if not lock(file):
                raise UserError(f"--out {out}: another data.prepare is at work in it; wait for it, or end it first")
            stack.callback(_if_allowed, (out / LOCK_FILE).unlink)  # Windows removes no open file
        yield


def _if_allowed(action):
    with contextlib.suppress(OSError):
        action()


def prepare(jobs: Sequence[Job], out: Path, settings: dict, numbers: dict[str, str], *, workers: int = 1) -> Outcome:
    """Carry out the jobs, and keep settings and given names beside the images. Returns the total Outcome.

    Everything that is there is verified first; where a file differs, nothing is written.
    """
    total = _total(verify, [job for job in jobs if job.files(there=True)], workers)
    if total.differing:
        return total
    write_json(out / SETTINGS_FILE, settings)
    remove_unfinished(out)
    if numbers:
        write_json(out / NAMES_FILE, numbers)
    total.add(_total(make, [job for job in jobs if job.files(there=False)], workers))
    return total


def _total(step, jobs, workers):
    """The total Outcome of `step` on every job, with a progress bar on a terminal."""
    total = Outcome()
    for outcome in thread_map(step, jobs, max_workers=workers, desc=step.__name__, unit=" images", disable=None):
        total.add(outcome)
    return total


def verify(job: Job) -> Outcome:
    """Compare every file of the job that is there with what belongs there; writes nothing."""
    outcome = Outcome()
    for path, pixels in _pixels(job, job.files(there=True), outcome):
        if _holds(path, pixels, copied_from=job.source if path == job.targets[1] else None):
            outcome.verified += 1
        else:
            outcome.differing.append(path)
    return outcome


def make(job: Job) -> Outcome:
    """Write every file of the job that is missing; touches no other."""
    outcome = Outcome()
    for path, pixels in _pixels(job, job.files(there=False), outcome):
        if path == job.targets[1] and _is_eight_bit_rgb_png(job.source):
            with atomic_path(path) as temporary:
                shutil.copyfile(job.source, temporary)
        else:
            write_png(path, pixels)
        outcome.written += 1
    return outcome


def _pixels(job, files, outcome):
    """(path, what belongs there) of files of the job; none, and a problem in `outcome`, for a source of no use."""
    try:
        hr = read_image(job.source)
    except UserError as error:
        outcome.problems.append(str(error))
        return
    height, width = hr.shape[:2]
    largest = max(job.targets)
    if min(height, width) < largest:
        outcome.problems.append(f"{job.source}: {width}x{height} pixels are too few for scale {largest}; leave it out")
        return
    for scale, path in files.items():
        part = hr[: height // scale * scale, : width // scale * scale]  # whole multiples
        yield path, hr if scale == 1 else imresize(part, 1 / scale, border=job.border)


def _holds(path, pixels, copied_from=None):
    """Whether the file `path` has these pixels; a byte for byte copy of the source need not be decoded."""
    if not path.is_file():  # a FIFO would never answer
        return False
    if copied_from is not None and filecmp.cmp(path, copied_from, shallow=False):
        return True
    try:
        return np.array_equal(read_image(path), pixels)
    except UserError:
        return False


def _is_eight_bit_rgb_png(path):
    """Whether a file can be copied as it is: the pixels are those a PNG file of ours would hold, in no turned order."""
    with open(path, "rb") as file:
        header = file.read(PNG_HEADER_SIZE)
    return header.startswith(PNG_START) and header.endswith(EIGHT_BIT_RGB) and not has_exif(path)


def report(out: Path, total: Outcome, others: Sequence[Path]) -> int:
    """Print what was done and what went wrong; returns the exit code. others: HR images in the set of no source."""
    for path in total.differing[:SHOWN]:
        print(f"error: {path}: differs from what belongs there; remove it, or choose another --out", file=sys.stderr)
    if len(total.differing) > SHOWN:
        print(f"error: and {len(total.differing) - SHOWN} more files that differ", file=sys.stderr)
    for problem in total.problems:
        print(f"error: {problem}", file=sys.stderr)
    refused = "; nothing was written, because files differ" if total.differing else ""
    print(f"{out}: {total.written} files written, {total.verified} verified{refused}")
    if others:
        print(f"{out}: {len(others)} more HR images belong to the set that --hr has not, such as {others[0]}; where "
              "they should not, remove them and their LR images")
    return 1 if total.differing or total.problems else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
