"""Convolutions in integers whose every output is the level that real arithmetic gives."""

import numpy as np

from quant.deploy.lowering.levels import AnyGrid, IntegerWeight

INT32_MAX = 2**31 - 1
# offsets of the integer bias that are tried before a requantization counts as impossible
BIAS_OFFSETS = sorted(range(-64, 65), key=abs)
# how far apart, relatively, the limits of a requantization factor must be for float32 to meet it
FACTOR_MARGIN = 2e-6


def exact_conv(weight: IntegerWeight, bias: np.ndarray, grid_in: AnyGrid,
               grid_out: AnyGrid) -> tuple[IntegerWeight, np.ndarray] | None:
    """(IntegerWeight, int32 bias [O]) of a convolution whose sums land on their true levels, or None.

    A kernel computes round((a + b) * f) of the accumulator a, for integer b; the network means round(a * f' + b') with
    a real b'. Only the accumulators at which the level changes matter: b and f are chosen so that each of these stays
    the same whole number; None where a channel has no such pair, or a grid is not static. weight: its step including
    all factors up to the output; bias: real [O], likewise.
    """
    if not (grid_in.is_static and grid_out.is_static):
        return None
    weight = weight.spread(grid_in.largest_code)
    units = np.broadcast_to(grid_in.step * weight.step, bias.shape).astype(np.float64)
    stride = int(np.gcd.reduce(np.abs(weight.levels), axis=None)) or 1
    least, most = _reach(weight.levels // stride, grid_in)
    levels = np.arange(grid_out.low + 1, grid_out.high + 1) - grid_out.zero - 0.5
    biases, factors = [], []
    for channel, unit in enumerate(units * stride):
        changes = np.ceil((levels * grid_out.step - bias[channel]) / unit)
        for offset in BIAS_OFFSETS:
            b = round(bias[channel] / unit * stride) + offset
            factor = _factor(changes, levels, least[channel], most[channel], stride, b)
            if factor is not None and abs(b) <= INT32_MAX:
                break
        else:
            return None
        biases.append(b)
        factors.append(factor)
    step = np.array(factors) * grid_out.step / grid_in.step
    return IntegerWeight(weight.levels, step), np.array(biases, np.int32)


def _reach(levels, grid):
    """The least and the largest accumulator of each channel."""
    low, high = grid.low - grid.zero, grid.high - grid.zero
    ends = np.stack((levels * low, levels * high))
    return ends.min(0).sum((1, 2, 3)), ends.max(0).sum((1, 2, 3))


def _factor(changes, levels, least, most, stride, bias):
    """The middle of all f with (a * stride + bias) * f < level below each change, and >= level from there on."""
    above = np.maximum(changes, least) * stride + bias
    below = np.minimum(changes - 1, most) * stride + bias
    reached, left = changes <= most, changes > least
    low, high = 0.0, np.inf
    for value, applies, is_above in ((above, reached, True), (below, left, False)):
        with np.errstate(divide="ignore", invalid="ignore"):
            limit = levels / value
        # f * value >= level where above: a lower limit if value > 0, an upper one if value < 0; below: the reverse
        if np.any(applies & (value * np.sign(levels) <= 0) & ((levels > 0) == is_above)):
            return None
        bounded = applies & (value * np.sign(levels) > 0)
        from_below = bounded & ((value > 0) == is_above)
        low = max(low, limit[from_below].max(initial=0.0))
        high = min(high, limit[bounded & ~from_below].min(initial=np.inf))
    if not np.isfinite(high):
        high = max(2 * low, 1e-30)
    return (low + high) / 2 if high - low > FACTOR_MARGIN * high else None
