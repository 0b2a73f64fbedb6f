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
    channels = image.shape[2] if image.ndim == 3 else 1
    shape = (len(weights), width) if axis == 0 else (height, len(weights))
    if axis == 1:
        weights, indices = _per_channel(weights, indices, channels)

    plane = np.ascontiguousarray(image).reshape(height, width * channels)
    block = BLOCK if axis == 0 else BLOCK * channels
    exact = _exact_type(image.dtype, weights)
    if exact is None:
        plane = _sum_in_order(plane, axis, weights, indices, block)
    else:
        plane = _sum_by_matmul(plane, axis, weights, indices, block, exact)
    return plane.reshape(shape + image.shape[2:])


def _per_channel(weights, indices, channels):
    """Taps for rows of interleaved channels: every position becomes `channels` positions, each within its channel."""
    indices = indices[:, None, :] * channels + np.arange(channels)[:, None]
    return np.repeat(weights, channels, axis=0), indices.reshape(-1, indices.shape[-1])


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


def _sum_by_matmul(plane, axis, weights, indices, block, float_type):
    """Sums by one small dense product per block of output positions, small enough to stay in the cache."""
    out = _empty(plane, axis, len(weights))
    for start in range(0, len(weights), block):
        stop = min(start + block, len(weights))
        taps = indices[start:stop]
        low, high = taps.min(), taps.max() + 1
        matrix = np.zeros((stop - start, high - low), float_type)
        np.add.at(matrix, (np.arange(stop - start)[:, None], taps - low), weights[start:stop])
        if axis == 0:
            out[start:stop] = _to_pixels(matrix @ plane[low:high].astype(float_type), plane.dtype)
        else:
            out[:, start:stop] = _to_pixels(plane[:, low:high].astype(float_type) @ matrix.T, plane.dtype)
    return out


def _sum_in_order(plane, axis, weights, indices, block):
    """Sums in float64, first tap to last, each product rounded before it is added: MATLAB's results to the last bit."""
    out = _empty(plane, axis, len(weights))
    for start in range(0, len(weights), block):
        part = slice(start, start + block)
        sums = 0.0
        for weight, index in zip(weights[part].T, indices[part].T, strict=True):
            sums = sums + plane.take(index, axis) * (weight[:, None] if axis == 0 else weight)
        out[part if axis == 0 else (slice(None), part)] = _to_pixels(sums, plane.dtype)
    return out


def _empty(plane, axis, length):
    shape = (length, plane.shape[1]) if axis == 0 else (plane.shape[0], length)
    return np.empty(shape, plane.dtype)


def _to_pixels(sums, pixel_type):
    """Round half up and clip to an integer type, in place; only cast to a float type."""
    if pixel_type.kind == "u":
        np.clip(sums, 0, np.iinfo(pixel_type).max, out=sums)
        sums += 0.5
    return sums.astype(pixel_type)
