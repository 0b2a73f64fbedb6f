"""One pass of a separable resize: weighted sums along an axis, equal to sums in double precision, tap by tap.

Where the weights are fractions with a small power of two below (all scales that are powers of two), sums of whole
pixels are exact in float32 or float64 in any order, so a matrix product gives the same bits many times faster.
"""

import math

import numpy as np

BLOCK = 8
MANTISSA_BITS = {np.float32: 24, np.float64: 53}


def resize_axis(image: np.ndarray, axis: int, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Replace an axis of `image` by weighted sums along it.

    image: [h, w] or [h, w, c], uint8 or uint16 (sums are rounded half up and clipped) or float32, float64 (kept).
    axis: 0 or 1. weights: float64 [n, taps]; indices: int [n, taps], in 0..length-1 of that axis.
    Returns an array of the image's dtype with n positions on that axis.
    """
    height, width = image.shape[:2]
    plane, block = image.reshape(height, -1), BLOCK
    if axis == 1:  # the same on the transposed plane, where each channel of a column is a line
        channels = plane.shape[1] // width
        plane, block = plane.T, BLOCK * channels
        indices = (indices[:, None] * channels + np.arange(channels)[:, None]).reshape(-1, indices.shape[1])
        weights = np.repeat(weights, channels, axis=0)
    exact = _exact_type(image.dtype, weights)
    out = np.empty((len(weights), plane.shape[1]), image.dtype, order="F" if axis == 1 else "C")
    for start in range(0, len(weights), block):
        part = slice(start, start + block)
        if exact is None:
            sums = _sum_in_order(plane, weights[part], indices[part])
        else:
            sums = _sum_by_matmul(plane, weights[part], indices[part], exact)
        out[part] = _to_pixels(sums, image.dtype)
    return out.T.reshape(height, -1, *image.shape[2:]) if axis == 1 else out.reshape(-1, *image.shape[1:])


def _exact_type(pixel_type, weights):
    """The smallest float type in which every sum of weighted pixels is exact, in any order; None if there is none."""
    if pixel_type.kind == "f":
        return None
    bound = np.abs(weights).sum(axis=1).max() * np.iinfo(pixel_type).max
    for float_type, mantissa_bits in MANTISSA_BITS.items():
        fraction_bits = mantissa_bits - math.ceil(math.log2(bound))
        scaled = np.ldexp(weights, fraction_bits)
        if np.array_equal(scaled, np.rint(scaled)):
            return float_type
    return None


def _sum_by_matmul(plane, weights, indices, float_type):
    """Sums by one dense product, small enough to stay in the cache."""
    low, high = indices.min(), indices.max() + 1
    matrix = np.zeros((len(weights), high - low), float_type)
    np.add.at(matrix, (np.arange(len(weights))[:, None], indices - low), weights)
    return matrix @ plane[low:high].astype(float_type)


def _sum_in_order(plane, weights, indices):
    """Sums in float64, first tap to last, each product rounded before it is added: MATLAB's results to the last bit."""
    sums = 0.0
    for weight, index in zip(weights.T, indices.T, strict=True):
        sums = sums + plane[index] * weight[:, None]
    return sums


def _to_pixels(sums, pixel_type):
    """Round half up and clip to an integer type, in place; only cast to a float type."""
    if pixel_type.kind == "u":
        np.clip(sums, 0, np.iinfo(pixel_type).max, out=sums)
        sums += 0.5
    return sums.astype(pixel_type)
