"""Checks of images by their headers, before anything is decoded, trained or tested."""

import os
from collections.abc import Sequence

from data.image_sets import EXAMPLES, ImageSet, Pair
from data.images import image_shape
from metrics.functional import WINDOW
from utility import UserError, check_file


def check_pairs(pairs: list[Pair], *, scale: int, patch_size: int | None = None,
                tested_border: int | None = None) -> None:
    """Raise UserError unless every HR image is `scale` times its LR image, and large enough for what is done with it.

    HR may have up to scale - 1 rows and columns more, which are cut off. patch_size: HR pixels, for training.
    tested_border: HR pixels that tests leave out on each side; SSIM needs its window within.
    """
    if patch_size is not None and patch_size < scale:
        raise UserError(f"--patch_size {patch_size}: smaller than one LR pixel at --scale {scale}")
    for pair in pairs:
        if pair.hr is None:  # a user's picture, whose test says what is wrong with it
            continue
        lr_shape = image_shape(pair.lr)
        hr_shape = image_shape(pair.hr)
        if not all(0 <= high - scale * low < scale for high, low in zip(hr_shape, lr_shape, strict=True)):
            fitting = size_text([length // scale for length in hr_shape])
            raise UserError(f"{pair.lr}: {size_text(lr_shape)} does not fit {pair.hr} ({size_text(hr_shape)}) at "
                            f"--scale {scale}, expected {fitting}; make it again with python -m data.prepare")
        size = size_text([scale * length for length in lr_shape])
        if patch_size is not None and min(lr_shape) < patch_size // scale:
            advice = f"use at most {scale * min(lr_shape)}, or take the image out"
            raise UserError(f"--patch_size {patch_size}: larger than {pair.hr} ({size}); {advice}")
        if tested_border is not None and too_small_to_test(lr_shape, scale, tested_border):
            least = WINDOW + 2 * tested_border
            raise UserError(f"{pair.hr}: {size} pixels are too few to test with at --scale {scale}, SSIM needs "
                            f"{least}x{least}; take the image out")


def too_small_to_test(lr_shape: tuple[int, int], scale: int, border: int) -> bool:
    """Whether SSIM's window does not fit into HR, scale times `lr_shape`, without `border` pixels on each side."""
    return scale * min(lr_shape) < WINDOW + 2 * border


def check_apart(training: list[ImageSet], testing: list[ImageSet], data_range: str) -> None:
    """Raise UserError when an HR file is in a training and in a test set, under whatever names or links."""
    trained = {_identity(pair.hr) for image_set in training for pair in image_set.pairs}
    both = [pair.hr for image_set in testing for pair in image_set.pairs if pair.hr and _identity(pair.hr) in trained]
    if both:
        raise UserError(f"--data_range {data_range}: training and test images overlap ({len(both)}), such as "
                        f"{both[0]}; give ranges that keep them apart, {EXAMPLES}")


def _identity(path):
    check_file(path)
    status = os.stat(path)
    return status.st_dev, status.st_ino


def size_text(shape: Sequence[int]) -> str:
    """(height, width) as people write it: '2040x1356' for a wide picture."""
    height, width = shape
    return f"{width}x{height}"
