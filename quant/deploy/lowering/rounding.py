"""Weights for integer kernels: float ones to int8, and rearranged so that pixel shuffles cost little."""

import numpy as np
import torch
from torch import Tensor

from quant.deploy.lowering.levels import PAIR_SAFE_PRODUCT, UINT8_MAX, IntegerWeight

# with uint8 features, so many levels a side are what processors without VNNI add without saturating
LEVELS = PAIR_SAFE_PRODUCT // UINT8_MAX
DAMPING = 0.01


def rounded_weight(weight: np.ndarray, copies: int = 1) -> IntegerWeight:
    """A weight [O, I, kh, kw] on each output channel's own grid of -64..64, each value rounded by itself.

    With `copies` > 1 on a grid as many times finer, for an input that is repeated so often: [O, copies * I, kh, kw].
    """
    step = _steps(weight) / copies
    levels = np.rint(weight / step[:, None, None, None]).astype(np.int64)
    return IntegerWeight(_split(levels, copies), step)


def _split(levels, copies):
    """Levels as the sum of `copies` smaller ones, one behind the other along the input channels."""
    return np.concatenate([(levels + i) // copies for i in range(copies)], 1)


def compensated_weight(weight: np.ndarray, covariance: Tensor, factors: np.ndarray | None = None,
                       copies: int = 1) -> IntegerWeight:
    """The same grid, rounded so that each value makes up for the errors of those before it, as GPTQ does.

    covariance: float64 tensor [I*kh*kw, I*kh*kw], the mean of w w^T over the windows w that the convolution sees. What
    is small then is not the weight's error but the output's. Values whose inputs are large go first. factors: [I], by
    which the input's channels come divided. copies: as for `rounded_weight`.
    """
    if factors is not None:
        weight = weight * factors[:, None, None]
        each = torch.from_numpy(factors).repeat_interleave(weight[0, 0].size)
        covariance = covariance / each / each.unsqueeze(1)
    step = torch.from_numpy(_steps(weight) / copies)
    rest = torch.from_numpy(weight.astype(np.float64)).flatten(1)
    order = covariance.diagonal().argsort(descending=True)
    rest, covariance = rest[:, order].clone(), covariance[order][:, order]
    damped = covariance + DAMPING * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    levels = torch.zeros_like(rest)
    for i in range(rest.shape[1]):
        levels[:, i] = torch.round(rest[:, i] / step).clamp_(-LEVELS * copies, LEVELS * copies)
        error = (rest[:, i] - levels[:, i] * step) / spread[i, i]
        rest[:, i:] -= error.unsqueeze(1) * spread[i, i:]
    original = torch.empty_like(levels)
    original[:, order] = levels
    return IntegerWeight(_split(original.view(weight.shape).numpy().astype(np.int64), copies), step.numpy())


def _steps(weight):
    return np.maximum(np.abs(weight.astype(np.float64)).max((1, 2, 3)), 1e-12) / LEVELS


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
