"""From quantizers and weights to the integers that kernels compute with (quant/README.md, "Uniform quantizer").

Level m = value / step, a whole number; code = m + zero, a uint8; a grid says step and zero.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quant.activation import ActivationQuantizer
from quant.functional import integer_levels
from quant.weight import QuantConv2d
from utility import UserError

UINT8_MAX = 255
LARGEST_BIAS = 2**30  # in an int32 beside the largest sum
INT8_MAX = 127
# without VNNI, x86 adds two products of a uint8 and an int8 in 16 bits, saturating
PAIR_SAFE_PRODUCT = (2**15 - 1) // 2
# the levels of 6 bits; grids with more, 8-bit features', are not worth an exact place for each
MOST_EXACT_LEVELS = 64
# orders of axes: channels last as integer kernels want them, and back
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Grid:
    """Quantization parameters of a uint8 tensor: value = (code - zero) * step, and codes span low..high.

    ONNX calls `step` the scale and `zero` the zero point.
    step, low and high are numbers, or names of runtime scalars in a graph (a dynamic quantizer's); zero is a number.
    """

    step: Any
    zero: int
    low: Any
    high: Any

    @property
    def is_static(self) -> bool:
        return not isinstance(self.step, str)

    @property
    def largest_code(self) -> int:
        """The largest code; with runtime bounds the largest of bounds around zero."""
        return self.high if self.is_static else 2 * self.zero + 1

    @property
    def bounds(self) -> tuple[float, float]:
        """(lowest, highest) real value of a static grid."""
        return (self.low - self.zero) * self.step, (self.high - self.zero) * self.step


@dataclass(frozen=True)
class RuntimeGrid:
    """The levels of a quantizer whose bounds a gate sets, for arithmetic in float: names of [N, 1, 1, 1] tensors.

    value = (round(clip(x, lower, upper) * scale - offset) + offset) / scale.
    """

    lower: str
    upper: str
    scale: str
    offset: str

    is_static = False


AnyGrid = Grid | RuntimeGrid
Range = tuple[float, float]  # the smallest and the largest real value


@dataclass(frozen=True)
class Codes:
    """A feature [N, C, h, w] whose values lie on `grid`, and its number of channels.

    name: for QLinear the uint8 codes, for Qdq the float values that DequantizeLinear gives.
    """

    name: str
    grid: AnyGrid
    channels: int


def static_grid(name: str, quantizer: ActivationQuantizer, *, after_relu: bool = False) -> Grid:
    """The grid of an activation quantizer without a gate: its levels m lie between round(s*l) and round(s*u), its step
    is 1/s, with bounds l and u and s = (2**k_bits - 1) / (u - l). Codes begin at 0 where levels are negative.

    after_relu: no input is negative. Raises UserError where 8 bits do not hold the codes.
    """
    lower, upper = (bound.detach() for bound in quantizer.static_bounds())
    bounds = torch.cat((lower, upper))
    levels, scale = integer_levels(bounds, lower, upper, quantizer.k_bits)
    low, high = (int(level) for level in levels)
    if after_relu:  # bounds below zero give their upper one for all inputs
        low = min(max(low, 0), high)
    zero = max(-low, 0)
    if zero > UINT8_MAX or high + zero > UINT8_MAX:
        raise UserError(f"{name}: its bounds {bounds.tolist()} are so far from zero that no 8-bit integer holds the "
                        "levels; train it further, its range has collapsed")
    return Grid(1 / float(scale), zero, low + zero, high + zero)


def affine_grid(low: float, high: float) -> Grid:
    """The grid of all 256 codes that spans low..high, to half a step, and has an exact zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = ((high - low) or 1.0) / UINT8_MAX
    return Grid(step, round(-low / step), 0, UINT8_MAX)


def term_grids(*ranges: tuple[float, float]) -> list[Grid]:
    """A grid for each term of a sum whose codes are just added: one step, and no sum of codes beyond 255.

    ranges: (low, high) of each term; 0 counts as within. The finest such step.
    """
    whole = [(min(low, 0.0), max(high, 0.0)) for low, high in ranges]
    step = (sum(high - low for low, high in whole) or 1.0) / (UINT8_MAX - 2 * len(whole))
    sides = [(int(np.ceil(-low / step)), int(np.ceil(high / step))) for low, high in whole]
    return [Grid(step, below, 0, below + above) for below, above in sides]


@dataclass(frozen=True)
class IntegerWeight:
    """A weight [O, I, kh, kw]: real value = levels * step; levels are whole numbers (int64), step one number or [O]."""

    levels: np.ndarray
    step: float | np.ndarray

    def spread(self, largest_code: int) -> "IntegerWeight":
        """The same weight on the finest int8 grid whose products with codes up to `largest_code` no processor
        saturates: a finer weight makes a finer bias."""
        largest = max(int(np.abs(self.levels).max()), 1)
        factor = max(min(INT8_MAX, PAIR_SAFE_PRODUCT // max(largest_code, 1)) // largest, 1)
        return IntegerWeight(self.levels * factor, self.step / factor)

    def holding(self, bias: np.ndarray, step: float) -> "IntegerWeight":
        """The same weight, coarser where its bias is so much larger that int32 would not hold it in units of the sums.

        bias: real [O]; step: of the codes that are read. What is lost is less than 1/1,000 of the bias.
        """
        least = np.abs(bias) / (step * LARGEST_BIAS)
        if np.all(self.step >= least):
            return self
        steps = np.maximum(self.step, least)
        ratio = np.broadcast_to(self.step / steps, bias.shape)
        return IntegerWeight(np.rint(self.levels * ratio[:, None, None, None]).astype(np.int64), steps)

    def finer(self, factors: np.ndarray) -> "IntegerWeight":
        """The same weight, each output channel on a grid finer by a whole factor."""
        return IntegerWeight(self.levels * factors[:, None, None, None], self.step / factors)

    def scaled(self, factors: np.ndarray) -> "IntegerWeight":
        """Each output channel multiplied by a real factor; negative ones turn the levels' signs, 0 makes them 0."""
        signs = np.sign(factors).astype(np.int64)
        steps = self.step * np.where(factors == 0, 1, np.abs(factors))  # none is 0, as others are divided by them
        return IntegerWeight(self.levels * signs[:, None, None, None], steps)


def quantized_weight(name: str, conv: QuantConv2d) -> IntegerWeight:
    """The levels of a QuantConv2d's weight: what it convolves with is levels * step, one step for all, to the bit.

    Raises UserError where int8 does not hold them.
    """
    whole, scale = conv.integer_weight()
    levels = whole.numpy().astype(np.int64)
    if np.abs(levels).max() > INT8_MAX:
        raise UserError(f"{name}: weights at {conv.k_bits} bits reach level {np.abs(levels).max()}, which int8 does "
                        "not hold; all of them lie on one side of zero")
    return IntegerWeight(levels, 1 / float(scale))


def rounded_bias(bias: np.ndarray, unit: float | np.ndarray) -> np.ndarray:
    """The bias in units of the accumulator, int32; `IntegerWeight.holding` makes units that allow it."""
    return np.rint(bias / unit).astype(np.int32)


def has_few_codes(grid: AnyGrid) -> bool:
    """Whether a grid has so few codes, as quantizers do, that the exact place of each level means something."""
    return grid.is_static and grid.high - grid.low < MOST_EXACT_LEVELS


def stays_within(source: AnyGrid, grid: AnyGrid, slope: float) -> bool:
    """Whether all values of a grid, negative ones times `slope`, lie on another one's codes without being clipped."""
    if not (source.is_static and grid.is_static):
        return False
    low, high = source.bounds
    low = low * slope if low < 0 else low
    return all(grid.low <= round(value / grid.step) + grid.zero <= grid.high or edge
               for value, edge in ((low, grid.low == 0 and low < 0), (high, grid.high == UINT8_MAX)))
