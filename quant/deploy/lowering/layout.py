"""Full precision in int8: how the channels of a feature lie in codes, and weights rounded to int8 for such features."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from quant.deploy.lowering.levels import PAIR_SAFE_PRODUCT, UINT8_MAX, IntegerWeight

# with uint8 features, so many levels a side are what processors without VNNI add without saturating
MAX_WEIGHT_LEVEL = PAIR_SAFE_PRODUCT // UINT8_MAX
DAMPING = 0.01


@dataclass(frozen=True)
class Layout:
    """What each place of a feature with P channels of codes holds.

    channels: which of the network's C channels, [P]. factors: what each of those is divided by, [C]. copy_index: which
    of its channel's copies a place is, [P]. The n copies of a channel are rounded 1 / n of a step apart, so that their
    mean lies on a grid n times finer; the convolutions that make and read them share the channel's weights out among
    the copies, on grids as much finer.
    """

    channels: np.ndarray
    factors: np.ndarray
    copy_index: np.ndarray

    @classmethod
    def of(cls, factors: np.ndarray, copies: np.ndarray) -> "Layout":
        """Each channel once, then those with a second copy, and so on; factors, copies: [C]."""
        there = [np.flatnonzero(copies > turn) for turn in range(copies.max())]
        channels = np.concatenate(there)
        return cls(channels, factors, np.repeat(np.arange(len(there)), [len(one) for one in there]))

    @classmethod
    def repeated(cls, channels: int, copies: int) -> "Layout":
        """All channels, one behind the other, `copies` times; undivided."""
        return cls.of(np.ones(channels), np.full(channels, copies))

    @cached_property
    def copies(self) -> np.ndarray:
        """How often each channel is there, [C]."""
        return np.bincount(self.channels)

    @cached_property
    def offsets(self) -> np.ndarray:
        """How far from a grid's own values each place is rounded, in its steps, [P]; a channel's copies sum to 0."""
        return (self.copy_index + 0.5) / self.copies[self.channels] - 0.5

    def before_shuffle(self, factor: int, *, woven: bool) -> "Layout":
        """The layout before a pixel shuffle that gives this one; woven: as `pixel_shuffle` reads it, else torch's."""
        parts = np.arange(factor**2)
        channels = self.channels[:, None] * factor**2 + parts
        copy_index = np.broadcast_to(self.copy_index[:, None], channels.shape)
        channels, copy_index = ((one.T if woven else one).reshape(-1) for one in (channels, copy_index))
        return Layout(channels, np.repeat(self.factors, factor**2), copy_index)

    def made_by(self, weight: IntegerWeight, bias: np.ndarray, step: float) -> tuple[IntegerWeight, np.ndarray]:
        """(weight, bias) of the convolution that makes the channels in this layout, from those for the network's own.

        weight: [C, I, k, k]; a channel with n copies has an n times finer grid, its copies' levels add up to its own.
        bias: real [C]. step: of the grid that the codes lie on.
        """
        copy_index, copies, factors = self.copy_index[:, None], self.copies[self.channels], self.factors[self.channels]
        whole = weight.levels[self.channels].reshape(len(copy_index), -1)
        # a remainder goes to another copy from value to value; else one copy's output would be too low
        levels = (whole + (copy_index + np.arange(whole.shape[1])) % copies[:, None]) // copies[:, None]
        steps = np.broadcast_to(weight.step, bias.shape)[self.channels] * copies / factors
        shared = IntegerWeight(levels.reshape(-1, *weight.levels.shape[1:]), steps)
        return shared, bias[self.channels] / factors + self.offsets * step

    def split_copies(self, levels: np.ndarray) -> np.ndarray:
        """Whole levels [O, C, k, k] of a convolution that reads this, as [O, P, k, k]: a channel's copies sum to it."""
        copy_index, copies = (one[:, None, None] for one in (self.copy_index, self.copies[self.channels]))
        return (levels[:, self.channels] + copy_index) // copies

    def sum_copies(self, levels: np.ndarray) -> np.ndarray:
        """`split_copies` undone: the sum of each channel's copies."""
        whole = np.zeros((len(levels), len(self.copies), *levels.shape[2:]), levels.dtype)
        np.add.at(whole, (slice(None), self.channels), levels)
        return whole

    def inverse(self) -> IntegerWeight:
        """The 1x1 convolution that gives the network's channels back."""
        count = len(self.copies)
        levels = (self.channels == np.arange(count)[:, None]).astype(np.int64)
        return IntegerWeight(levels[:, :, None, None], self.factors / self.copies)


def compensated_weight(weight: np.ndarray, covariance: Tensor, reads: Layout | None = None,
                       makes: Layout | None = None) -> IntegerWeight:
    """A weight [O, I, kh, kw] on each output channel's own grid of -64..64, rounded as GPTQ does.

    Each value makes up for the errors of those before it, those with large inputs first: what is small then is not the
    weight's error but the output's. covariance: float64 tensor [I*kh*kw, I*kh*kw], the mean of w w^T over the windows w
    that the convolution sees. reads, makes: the layouts of input and output, if any. The grid is finer by the copies
    of both; the result is [O, places, kh, kw], and `makes.made_by` shares it out.
    """
    makes, reads = (layout or Layout.repeated(count, 1)
                    for layout, count in zip((makes, reads), weight.shape[:2], strict=True))
    weight = weight * reads.factors[:, None, None]
    each = torch.from_numpy(reads.factors).repeat_interleave(weight[0, 0].size)
    covariance = covariance / each / each.unsqueeze(1)
    step, most = (torch.from_numpy(one) for one in _grid(weight, reads, makes))
    rest = torch.from_numpy(weight.astype(np.float64)).flatten(1)
    order = covariance.diagonal().argsort(descending=True)
    rest, covariance, most = rest[:, order].clone(), covariance[order][:, order], most[:, order]
    level = covariance.diagonal().mean().item() or 1.0  # what reads nothing but zeros may round in any way
    damped = covariance + DAMPING * level * torch.eye(len(covariance), dtype=torch.float64)
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    levels = torch.zeros_like(rest)
    for i in range(rest.shape[1]):
        levels[:, i] = torch.round(rest[:, i] / step).clamp(-most[:, i], most[:, i])
        error = (rest[:, i] - levels[:, i] * step) / spread[i, i]
        rest[:, i:] -= error.unsqueeze(1) * spread[i, i:]
    original = torch.empty_like(levels)
    original[:, order] = levels
    return IntegerWeight(reads.split_copies(original.view(weight.shape).numpy().astype(np.int64)), step.numpy())


def _grid(weight, reads, makes):
    """(step [O], the largest level [O, I*kh*kw]) for a weight [O, I, kh, kw]."""
    parts = np.abs(weight.astype(np.float64)) / reads.copies[:, None, None]
    most = MAX_WEIGHT_LEVEL * np.outer(makes.copies, np.repeat(reads.copies, weight[0, 0].size))
    return np.maximum(parts.max((1, 2, 3)), 1e-12) / MAX_WEIGHT_LEVEL / makes.copies, most


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
