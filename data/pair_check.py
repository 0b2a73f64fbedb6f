"""Checks of a data set's images by their headers, before anything is trained or tested."""

from data.images import image_shape
from utility import UserError


def check_pairs(pairs, *, scale, patch_size=None):
    """Raise UserError unless every HR image is `scale` times its LR image, and no patch is larger than an image.

    HR may have up to scale - 1 rows and columns more, which are cut off. patch_size: HR pixels, for training.
    """
    if patch_size is not None and patch_size < scale:
        raise UserError(f"--patch_size {patch_size}: smaller than one LR pixel at --scale {scale}")
    for pair in pairs:
        lr_shape = image_shape(pair.lr)
        if pair.hr is not None:
            _check_fit(pair, lr_shape, image_shape(pair.hr), scale)
        if patch_size is not None and min(lr_shape) < patch_size // scale:
            largest = scale * min(lr_shape)
            size = _size([scale * length for length in lr_shape])
            advice = f"use at most {largest}, or take the image out"
            raise UserError(f"--patch_size {patch_size}: larger than {pair.hr or pair.lr} ({size}); {advice}")


def _check_fit(pair, lr_shape, hr_shape, scale):
    if not all(0 <= hr - scale * lr < scale for hr, lr in zip(hr_shape, lr_shape, strict=True)):
        fitting = _size([length // scale for length in hr_shape])
        raise UserError(
            f"{pair.lr}: {_size(lr_shape)} does not fit {pair.hr} ({_size(hr_shape)}) at --scale {scale}, "
            f"expected {fitting}; make it again with python -m data.prepare"
        )


def _size(shape):
    height, width = shape
    return f"{width}x{height}"
