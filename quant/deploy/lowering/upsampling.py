"""Weights rearranged so that pixel shuffles cost little where channels are innermost."""

import numpy as np


def shuffle_order(channels: int, factor: int) -> np.ndarray:
    """Where each output channel of `pixel_shuffle`'s order, (row, column, channel), stands in torch's order."""
    return np.arange(channels * factor**2).reshape(channels, factor, factor).transpose(1, 2, 0).reshape(-1)


def fold_shuffle(weight: np.ndarray, factor: int) -> np.ndarray:
    """The convolution `weight` after a pixel shuffle, as one before it.

    weight: [O, C, k, k], odd k. Returns [factor*factor*O, C*factor*factor, K, K]: input channels in torch's order of a
    pixel shuffle, output channels in `pixel_shuffle`'s. Zero padding means the same pixels before and after.
    """
    out_channels, channels, size, _ = weight.shape
    reach = size // 2
    margin = -(-reach // factor)
    folded = np.zeros((factor, factor, out_channels, channels, factor, factor, 2 * margin + 1, 2 * margin + 1),
                      weight.dtype)
    for row, column, i, j in np.ndindex(factor, factor, size, size):
        (y, sub_y), (x, sub_x) = divmod(row + i - reach, factor), divmod(column + j - reach, factor)
        folded[row, column, :, :, sub_y, sub_x, y + margin, x + margin] = weight[:, :, i, j]
    return folded.reshape(factor**2 * out_channels, channels * factor**2, 2 * margin + 1, 2 * margin + 1)
