"""Weights for integer kernels: float ones to int8, and rearranged so that pixel shuffles cost little."""

import numpy as np
import torch
from torch import Tensor

from quant.deploy.lowering.layout import Layout
from quant.deploy.lowering.levels import PAIR_SAFE_PRODUCT, UINT8_MAX, IntegerWeight

# with uint8 features, so many levels a side are what processors without VNNI add without saturating
LEVELS = PAIR_SAFE_PRODUCT // UINT8_MAX
DAMPING = 0.01


def rounded_weight(weight: np.ndarray, reads: Layout | None = None, makes: Layout | None = None) -> IntegerWeight:
    """A weight [O, I, kh, kw] on each output channel's own grid of -64..64, each value rounded by itself.

    reads, makes: the layouts of input and output, if any. The grid is finer by the copies of both; the result is
    [O, places, kh, kw], and `makes.made_by` shares it out.
    """
    reads, makes = _layouts(weight, reads, makes)
    step, _ = _grid(weight, reads, makes)
    return IntegerWeight(reads.split_copies(np.rint(weight / step[:, None, None, None]).astype(np.int64)), step)


def compensated_weight(weight: np.ndarray, covariance: Tensor, reads: Layout | None = None,
                       makes: Layout | None = None) -> IntegerWeight:
    """The same grid, rounded so that each value makes up for the errors of those before it, as GPTQ does.

    covariance: float64 tensor [I*kh*kw, I*kh*kw], the mean of w w^T over the windows w that the convolution sees. What
    is small then is not the weight's error but the output's. Values whose inputs are large go first.
    """
    reads, makes = _layouts(weight, reads, makes)
    weight = weight * reads.channel_factors[:, None, None]
    each = torch.from_numpy(reads.channel_factors).repeat_interleave(weight[0, 0].size)
    covariance = covariance / each / each.unsqueeze(1)
    step, most = (torch.from_numpy(one) for one in _grid(weight, reads, makes))
    rest = torch.from_numpy(weight.astype(np.float64)).flatten(1)
    order = covariance.diagonal().argsort(descending=True)
    rest, covariance, most = rest[:, order].clone(), covariance[order][:, order], most[:, order]
    damped = covariance + DAMPING * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    levels = torch.zeros_like(rest)
    for i in range(rest.shape[1]):
        levels[:, i] = torch.round(rest[:, i] / step).clamp(-most[:, i], most[:, i])
        error = (rest[:, i] - levels[:, i] * step) / spread[i, i]
        rest[:, i:] -= error.unsqueeze(1) * spread[i, i:]
    original = torch.empty_like(levels)
    original[:, order] = levels
    return IntegerWeight(reads.split_copies(original.view(weight.shape).numpy().astype(np.int64)), step.numpy())


def _layouts(weight, reads, makes):
    out_channels, in_channels = weight.shape[:2]
    return reads or Layout.repeated(in_channels, 1), makes or Layout.repeated(out_channels, 1)


def _grid(weight, reads, makes):
    """(step [O], the largest level [O, I*kh*kw]) for a weight [O, I, kh, kw]."""
    parts = np.abs(weight.astype(np.float64)) / reads.copies[:, None, None]
    most = LEVELS * np.outer(makes.copies, np.repeat(reads.copies, weight[0, 0].size))
    return np.maximum(parts.max((1, 2, 3)), 1e-12) / LEVELS / makes.copies, most


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
