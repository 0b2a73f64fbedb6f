"""Twins, near-duplicates: one picture twice, the second time in another size, file format or slightly cropped.

First look: the low frequencies (DCT) of both pictures shrunk to 8x8, each times its frequency, because the lowest are
large in every photograph. The few pairs that are alike there get a second look, at 64 pixels and then at 96: the fine
details in the middle of each are searched in the other, at several sizes. Photographs of one kind of scene pass the
first look only.
"""

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm.contrib.concurrent import thread_map

from data.images import image_files, read_image
from data.layout import folders_in
from utility import UserError

log = logging.getLogger(__name__)

NO_PICTURES = re.compile(r"^\.|^decoded$|(^|_)LR_bicubic$")  # folders
PERHAPS_NONE = re.compile(r"(^|_)LR_|_Q[0-9]+$")
SIDE = 96  # longest side that is kept
THREADS = 8  # each may hold a whole decoded picture
FREQUENCIES = 6  # of the 8 a direction
PARTS = (  # top, left, bottom, right of what a crop may have left of a picture
    *((0, 0, 1, 1), (0.05, 0.05, 0.95, 0.95), (0.1, 0.1, 0.9, 0.9), (0, 0.05, 1, 0.95), (0.05, 0, 0.95, 1)),
    *((0, 0, 0.85, 0.85), (0.15, 0.15, 1, 1), (0, 0.15, 0.85, 1), (0.15, 0, 1, 0.85)),
)
SIZES = 1.05 ** np.arange(-7, 8)
ALIKE = 0.68  # first look: misses 1 of 100 pictures cropped by up to a tenth at each side, keeps 1 of 200 other pairs
LOOKS = {  # longest side: least correlation of details
    64: 0.58,
    96: 0.64,  # lookalikes reach 0.61, pictures cropped by up to a tenth at each side begin at 0.68
}


class Twin(NamedTuple):
    """Two files that show one picture; likeness: correlation of their details, 0.64 to 1."""

    training: Path
    testing: Path
    likeness: float


def pictures_in(folder: Path | str, flag: str = "") -> list[Path]:
    """The image files in a folder and below it, without LR images and decoded copies.

    Folders below it that may hold such, by their names alone, are left out with a word. Raises UserError, which begins
    with `flag`, for a folder that can't be read.
    """
    found = image_files(folder, flag)
    for path in folders_in(folder):
        loop = Path(folder).resolve().is_relative_to(path.resolve())
        if loop or NO_PICTURES.search(path.name):
            continue
        if PERHAPS_NONE.search(path.name):
            log.warning("warning: %s: left out, its name is that of LR images; to look into it, name it itself", path)
        else:
            found += pictures_in(path, flag)
    return found


def find_twins(training: list[Path], testing: list[Path]) -> tuple[list[Twin], list[str]]:
    """The twins, most alike first, and a line for each file that can't be read. A file is no twin of itself."""
    problems = []
    trained, tested = (_greys(paths, problems) for paths in (training, testing))
    if not trained or not tested:
        return [], problems
    names = [list(greys) for greys in (trained, tested)]
    pairs = {}
    for i, j in _alike(list(trained.values()), list(tested.values())):
        pair = names[0][i], names[1][j]
        pairs.setdefault(frozenset(map(os.path.abspath, pair)), pair)
    chosen = [pair for files, pair in pairs.items() if len(files) == 2]
    likenesses = thread_map(lambda pair: _likeness(trained[pair[0]], tested[pair[1]]), chosen, max_workers=THREADS,
                            desc="comparing", disable=None)
    twins = [Twin(first, second, likeness)
             for (first, second), likeness in zip(chosen, likenesses, strict=True) if likeness]
    return sorted(twins, key=lambda twin: -twin.likeness), problems


def _greys(paths, problems):
    """dict path -> `_grey` of the file; a line goes to `problems` for each one that can't be read."""
    greys = dict(zip(paths, thread_map(_grey, paths, max_workers=THREADS, desc="reading", disable=None),
                     strict=True))
    problems += [str(grey) for grey in greys.values() if isinstance(grey, UserError)]
    return {path: grey for path, grey in greys.items() if not isinstance(grey, UserError)}


def _grey(path):
    """float32 [h, w] in 0..255, the longer of h and w SIDE; the UserError of a file that can't be read."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                image.draft("L", (2 * SIDE, 2 * SIDE))  # decodes no more than that, many times faster
                return _sized(np.float32(ImageOps.exif_transpose(image).convert("L")), SIDE)
    except Exception:  # read_image tells the reason
        pass
    try:
        return _sized(np.float32(Image.fromarray(read_image(path)).convert("L")), SIDE)
    except UserError as error:
        return error


def _sized(grey, side):
    shape = [max(12, round(length * side / max(grey.shape))) for length in grey.shape]
    return np.asarray(Image.fromarray(grey).resize(shape[::-1], Image.Resampling.BOX))


def _alike(trained, tested):
    """Numbers [n, 2] in `trained` and `tested` of pairs for a second look; whole pictures are held against parts."""
    trained, tested = (np.stack([[_low_frequencies(_part(grey, part)) for grey in greys] for part in PARTS])
                       for greys in (trained, tested))
    best = np.maximum((trained[0] @ tested.transpose(0, 2, 1)).max(0), (trained @ tested[0].T).max(0))
    return np.argwhere(best >= ALIKE)


def _part(grey, part):
    height, width = grey.shape
    top, left, bottom, right = part
    return grey[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]


def _low_frequencies(grey):
    """[FREQUENCIES**2] of length 1: the DCT of `grey` shrunk to 8x8, times frequency, which takes the mean out."""
    order = np.arange(FREQUENCIES)
    cosines = np.cos(np.pi * (np.arange(8) + 0.5) * order[:, None] / 8)
    shrunk = np.asarray(Image.fromarray(grey).resize((8, 8), Image.Resampling.BOX))
    waves = (cosines @ shrunk @ cosines.T * np.hypot(order, order[:, None])).ravel()
    return (waves / (np.linalg.norm(waves) + 1e-6)).astype(np.float32)


def _likeness(first, second):
    """The lower of two correlations: the middle of each in the other. 0 where it is too low for twins.

    Both count, because one strong edge may be found in one direction only.
    """
    for side, least in LOOKS.items():
        likeness = 1.0
        for pair in ((first, second), (second, first)):
            likeness = min(likeness, _middle_in(*pair, side))
            if likeness < least:
                return 0.0
    return likeness


def _middle_in(first, second, side):
    """The highest correlation of the details in the middle of `first`, in any of SIZES, with a place of `second`."""
    from skimage.feature import match_template

    blur = side / 32
    second, best = _details(second, side, blur), 0.0
    for size in SIZES:
        details = _part(_details(first, side * size, blur), (0.2, 0.2, 0.8, 0.8))
        if all(own <= other for own, other in zip(details.shape, second.shape, strict=True)):
            best = max(best, float(match_template(second, details).max()))
    return best


def _details(grey, side, blur):
    from skimage.filters import gaussian

    grey = _sized(grey, side)
    return grey - gaussian(grey, blur, preserve_range=True)
