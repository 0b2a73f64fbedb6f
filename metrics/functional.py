"""PSNR and SSIM with MATLAB's conventions, on torch tensors.

The figures of super-resolution papers come from MATLAB: luma by `rgb2ycbcr` on doubles (never rounded), a border cut
off on every side, SSIM with an 11x11 Gaussian window (sigma 1.5) where the whole window lies in the image. The same is
computed here in float64 on the tensors' own device; a device without float64 hands the work to the CPU.
"""

import math

import torch
from torch import Tensor

PEAK = 255.0
WINDOW = 11
SIGMA = 1.5
# rgb2ycbcr's first row for RGB in 0..1, which gives luma in 16..235
LUMA_WEIGHTS = (65.481, 128.553, 24.966)
LUMA_OFFSET = 16.0


def to_luma(image: Tensor) -> Tensor:
    """MATLAB's `rgb2ycbcr(im2double(image))(:, :, 1) * 255`.

    image: [3, H, W] of any dtype, RGB in 0..255; or [1, H, W], which is luma already and keeps its values.
    Returns float64 [1, H, W], in 16..235 for a colour image. Raises ValueError for any other shape.
    """
    _check_shape(image)
    image = _as_float64(image)
    if image.shape[0] == 1:
        return image
    red, green, blue = image
    weights = [weight / PEAK for weight in LUMA_WEIGHTS]
    return (weights[0] * red + weights[1] * green + weights[2] * blue + LUMA_OFFSET)[None]


def psnr(sr: Tensor, hr: Tensor, *, border: int, luma: bool = True) -> float:
    """Peak signal-to-noise ratio in dB, peak 255; infinite for identical images.

    sr, hr: [3, H, W] or [1, H, W], 8-bit values in any dtype, same shape and device. border: pixels cut off on each of
    the four sides (published: `scale` on benchmark sets, `scale + 6` on DIV2K). luma: compare `to_luma` of both,
    else all channels together. Returns a float. Raises ValueError for unequal shapes or when the border leaves nothing.
    """
    sr, hr = _prepare(sr, hr, border=border, luma=luma)
    error = (sr - hr).square_().mean().item()
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(sr: Tensor, hr: Tensor, *, border: int, luma: bool = True) -> float:
    """Structural similarity (Wang et al. 2004) of 11x11 Gaussian windows inside the image; 1 for identical images.

    Arguments as in `psnr`; without `luma` the mean over the channels. Returns a float. Raises ValueError for unequal
    shapes or when less than one window is left inside the border.
    """
    sr, hr = _prepare(sr, hr, border=border, luma=luma)
    height, width = sr.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs {WINDOW}x{WINDOW} pixels inside the border, there are {height}x{width}")
    # one channel at a time keeps the memory of a 2K image's maps in bounds
    return sum(_ssim_of_channel(x, y) for x, y in zip(sr, hr, strict=True)) / len(sr)


def _ssim_of_channel(x, y):
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_x, mean_y, mean_squares, mean_xy = _gaussian_means(torch.stack([x, y, x * x + y * y, x * y]))
    squares, product = mean_x.square() + mean_y.square(), mean_x * mean_y
    luminance = (2 * product + c1) / (squares + c1)
    structure = (2 * (mean_xy - product) + c2) / (mean_squares - squares + c2)
    return (luminance * structure).mean().item()


def _gaussian_means(maps):
    """Window means of [..., H, W] maps, [..., H - 10, W - 10]; the window is the product of two lines."""
    distances = [i - WINDOW // 2 for i in range(WINDOW)]
    line = [math.exp(-(d**2) / (2 * SIGMA**2)) for d in distances]
    line = [weight / sum(line) for weight in line]
    for dim in (-2, -1):
        size = maps.shape[dim] - WINDOW + 1
        # shifted sums need no unfolded copy, which float64 convolutions on the CPU make
        means = maps.narrow(dim, 0, size) * line[0]
        for start, weight in enumerate(line[1:], 1):
            means.add_(maps.narrow(dim, start, size), alpha=weight)
        maps = means
    return maps


def _prepare(sr, hr, *, border, luma):
    """Both images in float64 with the border cut off, luma only where wanted."""
    _check_shape(sr)
    if sr.shape != hr.shape:
        raise ValueError(f"images to compare differ in shape: {tuple(sr.shape)} and {tuple(hr.shape)}")
    height, width = sr.shape[-2:]
    if border < 0 or min(height, width) <= 2 * border:
        raise ValueError(f"a border of {border} pixels leaves nothing of {height}x{width} pixels")
    inside = (slice(None), slice(border, height - border), slice(border, width - border))
    convert = to_luma if luma else _as_float64
    return convert(sr[inside]), convert(hr[inside])


def _check_shape(image):
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected an image [3, H, W] or [1, H, W], got {tuple(image.shape)}")


def _as_float64(image):
    try:
        return image.detach().to(torch.float64)
    except (TypeError, RuntimeError):  # MPS and some XPU have no float64
        return image.detach().cpu().to(torch.float64)
