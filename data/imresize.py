"""MATLAB's bicubic `imresize`, pixel for pixel: the resampling that made all published low-resolution images.

A pass gives weighted sums along an axis, equal to sums in double precision, tap by tap. Where the weights are fractions
with a small power of two below (all scales that are powers of two), sums of whole pixels are exact in float32 or
float64 in any order, so a matrix product gives the same bits many times faster.
"""

import math
from collections.abc import Sequence

import numpy as np

BORDERS = ("symmetric", "replicate")
DTYPES = (np.uint8, np.uint16, np.float32, np.float64)
KERNEL_WIDTH = 4.0
BLOCK = 8  # lines at a time
MANTISSA_BITS = {np.float32: 24, np.float64: 53}


def imresize(image: np.ndarray, scale: float | Sequence[float] | None = None,
             output_shape: Sequence[float | None] | None = None, *, border: str = "symmetric",
             antialias: bool = True) -> np.ndarray:
    """Resize an image as MATLAB's `imresize(image, scale, 'bicubic')` does, in every pixel.

    image: [h, w] or [h, w, c]. uint8 and uint16 are rounded half up and clipped after each of the two passes, as MATLAB
        does; float32 and float64 are neither rounded nor clipped, whatever their range.
    scale: output size over input size, one number or (rows, columns). The output has ceil(scale * size) pixels.
    output_shape: (rows, columns) in pixels, from which each axis gets its own scale. One of the two may be None: it
        follows from the aspect ratio, and both axes take the scale of the other. With `scale` too, both are obeyed.
    border: what lies outside the image. 'symmetric' mirrors it, edge pixel repeated (today's MATLAB, and the published
        data sets); 'replicate' repeats the edge pixel (old MATLAB).
    antialias: stretch the kernel by 1 / scale when an axis shrinks.

    Returns an array of the image's dtype, [H, W] or [H, W, c].
    Raises TypeError for another dtype, ValueError for an empty image or impossible sizes, scales or borders.
    """
    image = np.asarray(image)
    if image.dtype not in DTYPES:
        raise TypeError(f"image has dtype {image.dtype}; it must be uint8, uint16, float32 or float64")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; it must be [h, w] or [h, w, c], and not empty")
    if border not in BORDERS:
        raise ValueError(f"border is {border!r}; it must be one of {', '.join(BORDERS)}")
    scales, shape = _scales_and_shape(image.shape[:2], scale, output_shape)
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        weights, indices = contributions(image.shape[axis], shape[axis], scales[axis], border, antialias)
        image = _resize_axis(image, axis, weights, indices)
    return image


def contributions(in_length: int, out_length: int, scale: float, border: str = "symmetric",
                  antialias: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Which input pixels make each output pixel along one axis, and with what weight.

    Returns weights, float64 [out_length, taps], rows summing to 1, and indices, int [out_length, taps] in
    0..in_length-1. Each operation is done in MATLAB's order, because the last bit of a weight decides rounding ties.
    """
    stretch = scale if antialias and scale < 1 else 1.0
    width = KERNEL_WIDTH / stretch
    centre = np.arange(1, out_length + 1) / scale + 0.5 * (1 - 1 / scale)
    left = np.floor(centre - width / 2)
    positions = left[:, None] + np.arange(math.ceil(width) + 2)

    weights = stretch * cubic(stretch * (centre[:, None] - positions))
    weights = weights / np.cumsum(weights, axis=1)[:, -1:]  # from left to right; NumPy's sum adds in pairs
    indices = _inside(positions.astype(np.int64) - 1, in_length, border)

    used = weights.any(axis=0)
    return weights[:, used], indices[:, used]


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5, zero beyond 2. x: float64 array, in pixels."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return near * (x <= 1) + far * ((1 < x) & (x <= 2))


def _inside(indices, length, border):
    """Bring zero-based indices from outside the image into 0..length-1."""
    if border == "replicate":
        return np.clip(indices, 0, length - 1)
    indices = np.mod(indices, 2 * length)
    return np.where(indices < length, indices, 2 * length - 1 - indices)


def _scales_and_shape(in_shape, scale, output_shape):
    """Both scale factors and both output lengths, whichever of them the caller gave."""
    if scale is None and output_shape is None:
        raise ValueError("give scale, output_shape or both")
    scales = () if scale is None else tuple(map(float, (scale, scale) if np.isscalar(scale) else scale))
    if scale is not None and (len(scales) != 2 or not all(0 < factor < math.inf for factor in scales)):
        raise ValueError(f"scale is {scale}; it must be one positive number or two")
    if output_shape is None:
        return scales, tuple(math.ceil(factor * length) for factor, length in zip(scales, in_shape, strict=True))
    derived, shape = _from_shape(in_shape, output_shape)
    return scales or derived, shape


def _from_shape(in_shape, output_shape):
    """Scale factors and output lengths for a wanted (rows, columns), one of which may be None."""
    given = [length for length in output_shape if length is not None]
    if len(output_shape) != 2 or not given or not all(0 < length < math.inf for length in given):
        raise ValueError(f"output_shape is {output_shape}; it must be two positive numbers, one of which may be None")
    rows, columns = (length and math.ceil(length) for length in output_shape)
    height, width = in_shape
    if rows is None:
        return (columns / width,) * 2, (math.ceil(columns * height / width), columns)
    if columns is None:
        return (rows / height,) * 2, (rows, math.ceil(rows * width / height))
    return (rows / height, columns / width), (rows, columns)


def _resize_axis(image, axis, weights, indices):
    """One pass: axis 0 or 1 of `image` replaced by n weighted sums along it, with `contributions` [n, taps]."""
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
