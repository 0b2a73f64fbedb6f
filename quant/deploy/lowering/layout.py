"""How a feature's channels lie in codes where full precision has room: divided, and the weightiest ones repeated."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quant.deploy.lowering.levels import IntegerWeight


@dataclass(frozen=True)
class Layout:
    """What each place of a feature with P channels of codes holds, [P] each.

    channels: which of the network's C channels. factors: what it is divided by. copy_index: which of the channel's
    copies it is. The n copies of a channel are rounded 1 / n of a step apart, so that their mean lies on a grid n times
    finer; the convolutions that make and read them share the channel's weights out among the copies, on grids as much
    finer.
    """

    channels: np.ndarray
    factors: np.ndarray
    copy_index: np.ndarray

    @classmethod
    def of(cls, factors: np.ndarray, copies: np.ndarray) -> "Layout":
        """Each channel once, then those with a second copy, and so on; factors, copies: [C]."""
        there = [np.flatnonzero(copies > turn) for turn in range(copies.max())]
        channels = np.concatenate(there)
        return cls(channels, factors[channels], np.repeat(np.arange(len(there)), [len(one) for one in there]))

    @classmethod
    def repeated(cls, channels: int, copies: int) -> "Layout":
        """All channels, one behind the other, `copies` times; undivided."""
        return cls.of(np.ones(channels), np.full(channels, copies))

    @cached_property
    def copies(self) -> np.ndarray:
        """How often each channel is there, [C]."""
        return np.bincount(self.channels)

    @cached_property
    def channel_factors(self) -> np.ndarray:
        """What each channel is divided by, [C]."""
        return self.factors[np.unique(self.channels, return_index=True)[1]]

    @cached_property
    def offsets(self) -> np.ndarray:
        """How far from a grid's own values each place is rounded, in its steps, [P]; a channel's copies sum to 0."""
        return (self.copy_index + 0.5) / self.copies[self.channels] - 0.5

    def before_shuffle(self, factor: int, *, woven: bool) -> "Layout":
        """The layout before a pixel shuffle that gives this one; woven: as `pixel_shuffle` reads it, else torch's."""
        parts = np.arange(factor**2)
        channels = self.channels[:, None] * factor**2 + parts
        rest = (np.broadcast_to(one[:, None], channels.shape) for one in (self.factors, self.copy_index))
        return Layout(*((one.T if woven else one).reshape(-1) for one in (channels, *rest)))

    def made_by(self, weight: IntegerWeight, bias: np.ndarray, step: float) -> tuple[IntegerWeight, np.ndarray]:
        """(weight, bias) of the convolution that makes the channels in this layout, from those for the network's own.

        weight: [C, I, k, k], each channel on a grid that is as often finer as it has copies: they share its levels.
        bias: real [C]. step: of the grid that the codes lie on.
        """
        copy_index, copies = self.copy_index[:, None], self.copies[self.channels]
        whole = weight.levels[self.channels].reshape(len(copy_index), -1)
        # a remainder goes to another copy from value to value; else one copy's output would be too low
        levels = (whole + (copy_index + np.arange(whole.shape[1])) % copies[:, None]) // copies[:, None]
        steps = np.broadcast_to(weight.step, bias.shape)[self.channels] * copies / self.factors
        shared = IntegerWeight(levels.reshape(-1, *weight.levels.shape[1:]), steps)
        return shared, bias[self.channels] / self.factors + self.offsets * step

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
        return IntegerWeight(levels[:, :, None, None], self.channel_factors / self.copies)
