"""The work on one image of a data set: compare the files that are there, or make the missing ones."""

import filecmp
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.images import read_image, write_png
from data.imresize import imresize
from utility import UserError, atomic_path

PNG_HEADER_SIZE = 26
EIGHT_BIT_RGB = b"\x08\x02"


@dataclass(frozen=True)
class Job:
    """One image to prepare. targets: dict scale -> path of the PNG file of that scale, scale 1 being the HR image."""

    source: Path
    targets: dict
    border: str

    def files(self, *, there: bool) -> dict[int, Path]:
        """Those of the targets that are there, or those that are missing."""
        return {scale: path for scale, path in self.targets.items() if path.exists() is there}


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


def downscale(hr: np.ndarray, scale: int, *, border: str = "symmetric") -> np.ndarray:
    """The LR image of `hr`, uint8 [H, W, 3], as MATLAB makes it: top left part of whole multiples, then bicubic.

    Returns uint8 [H // scale, W // scale, 3]; at scale 1 the image itself.
    """
    if scale == 1:
        return hr
    height, width = (length // scale * scale for length in hr.shape[:2])
    return imresize(hr[:height, :width], 1 / scale, border=border)


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
        yield path, downscale(hr, scale, border=job.border)


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
        ours = header.startswith(b"\x89PNG\r\n\x1a\n") and header.endswith(EIGHT_BIT_RGB)
        return ours and b"eXIf" not in file.read()
