"""Float operators between QuantizeLinear and DequantizeLinear, `--format qdq`: for OpenVINO, TensorRT and NPUs.

Scales and zero points are constants, weights int8 with a scale for each output channel and without a zero point. A
runtime that knows the pattern computes in integers, every other one gets the same values in float. Features are uint8,
or with `symmetric` int8 without a zero point. All are [N, C, h, w] float tensors here: what DequantizeLinear gives.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from quant.deploy.lowering import levels
from quant.deploy.lowering.code_graph import CodeGraph
from quant.deploy.lowering.exact import exact_conv
from quant.deploy.lowering.gate import on_levels, runtime_bounds
from quant.deploy.lowering.levels import INT8_MAX, UINT8_MAX, AnyGrid, Codes, Grid, IntegerWeight, Range, RuntimeGrid
from quant.methods.ddtb import DualBoundQuantizer
from utility import UserError

INT8_ZERO = INT8_MAX + 1


class Qdq(CodeGraph):
    """A graph of float operators between pairs of QuantizeLinear and DequantizeLinear.

    Codes are float values on their levels. CodeGraph says what each method gives; `exact_...` find a form for every
    convolution, exact where that can be.
    """

    runtime_scales = False

    def __init__(self, network: nn.Module, *, packed: dict[int, int] | None = None, symmetric: bool = False) -> None:
        super().__init__(network, packed=packed)
        self.symmetric = symmetric

    def described(self, codes: Codes) -> list:
        return [codes.name, None, 0] + ([] if isinstance(codes.grid, Grid) else [codes.grid.scale])

    def affine_grid(self, low: float, high: float) -> Grid:
        """Symmetric: -127..127 times its step."""
        if not self.symmetric:
            return levels.affine_grid(low, high)
        return Grid((max(-low, high, 0.0) or 1.0) / INT8_MAX, INT8_ZERO, 1, UINT8_MAX)

    def _holds(self, grid):
        """Whether 8-bit integers hold a static grid; int8 without a zero point has no room for an image's."""
        return not self.symmetric or -INT8_ZERO <= grid.low - grid.zero <= grid.high - grid.zero <= INT8_MAX

    def check(self, name: str, grid: Grid) -> None:
        """Raise UserError where int8 without a zero point does not hold a quantizer's grid."""
        if not self._holds(grid):
            raise UserError(f"--symmetric: {name} has levels {grid.low - grid.zero} to {grid.high - grid.zero}, which "
                            "int8 does not hold without a zero point; export without --symmetric")

    def runtime_grid(self, quantizer: DualBoundQuantizer, pooled: str) -> RuntimeGrid:
        """For arithmetic in float, as scales are constants here."""
        return runtime_bounds(self, quantizer, pooled)

    def image(self, grid: Grid, channels: int) -> Codes:
        """Symmetric: `lr` as it is, since int8 has no room for 256 levels from zero on."""
        image = Codes("lr", grid, channels)
        return image if self.symmetric else self._pair(image.name, grid, channels)

    def image_with_ones(self, grid: Grid, channels: int, copies: int) -> Codes:
        ones = self.op("Pad", "lr", self.int64(0, 0, 0, 0, 0, 1, 0, 0), self.float32(grid.bounds[1]))
        image = Codes(self.op("Concat", *[ones] * copies, axis=1), grid, copies * (channels + 1))
        return image if self.symmetric else self._pair(image.name, grid, image.channels)

    def _pair(self, x, grid, channels):
        """Float x held within the grid and brought to it."""
        low, high = (0, UINT8_MAX) if not self.symmetric else (grid.zero - INT8_ZERO, grid.zero + INT8_MAX)
        if (grid.low, grid.high) != (low, high):
            x = self.op("Clip", x, *(self.float32(bound) for bound in grid.bounds))
        zero = self.constant(0, np.int8) if self.symmetric else self.uint8(grid.zero)
        ends = (self.float32(grid.step), zero)
        return Codes(self.op("DequantizeLinear", self.op("QuantizeLinear", x, *ends), *ends), grid, channels)

    def quantize(self, x: str, grid: AnyGrid, channels: int) -> Codes:
        if not grid.is_static:
            return Codes(on_levels(self, x, grid), grid, channels)
        return self._pair(x, grid, channels)

    def dequantize(self, codes: Codes) -> str:
        return codes.name

    def requantize(self, codes: Codes, grid: AnyGrid, *, slope: float = 1.0) -> Codes:
        if codes.grid == grid and slope == 1:
            return codes
        return self._from_levels(self._leaky(codes.name, slope), grid, codes.channels)

    def _from_levels(self, x, grid, channels):
        """Values that are on other levels, brought to a grid. The rounding keeps two pairs apart.

        OpenVINO 2026.4 merges pairs that follow each other inexactly: a fifth of RDN's levels were wrong by one.
        """
        return self.quantize(self._rounded(x, grid) if grid.is_static else x, grid, channels)

    def _rounded(self, x, grid):
        """Float x on the steps of a static grid."""
        step = self.float32(grid.step)
        return self.op("Mul", self.op("Round", self.op("Div", x, step)), step)

    def _leaky(self, x, slope):
        return x if slope == 1 else self.op("LeakyRelu", x, alpha=float(slope))

    def requantized_concat(self, parts: Sequence[Codes], grid: AnyGrid) -> Codes:
        return self._from_levels(self.concat(parts).name, grid, sum(part.channels for part in parts))

    def mean_of(self, codes: Codes) -> str:
        return self.float_mean(codes.name)

    def conv_to_float(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray) -> str:
        """In int8, where the grid of the codes is static, the bias is int32 in units of the sums."""
        weight = weight.spread(codes.grid.largest_code if codes.grid.is_static else UINT8_MAX)
        if self.exact_floats or not codes.grid.is_static:
            return self._conv(codes, weight, self.constant(bias, np.float32))
        weight = weight.holding(bias, codes.grid.step)
        unit = codes.grid.step * np.broadcast_to(weight.step, bias.shape)
        return self._conv(codes, weight, self._bias(levels.rounded_bias(bias, unit), unit))

    def _conv(self, codes, weight, bias):
        in_integers = codes.grid.is_static and self._holds(codes.grid)
        self.convolutions["in integers" if in_integers else "in float"] += 1
        steps, size = np.broadcast_to(weight.step, len(weight.levels)), weight.levels.shape[-1]
        kernel = self.op("DequantizeLinear", self.weight(weight.levels), self.constant(steps, np.float32),
                         self.constant(np.zeros(len(steps)), np.int8), axis=0)
        return self.op("Conv", codes.name, kernel, bias, kernel_shape=[size, size], pads=[size // 2] * 4)

    def _bias(self, whole, unit):
        return self.op("DequantizeLinear", self.constant(whole), self.constant(unit, np.float32),
                       self.constant(np.zeros(len(whole)), np.int32), axis=0)

    def code_conv(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid) -> Codes:
        exact = exact_conv(weight, bias, codes.grid, grid) if levels.has_few_codes(grid) else None
        if exact is None:
            return self.quantize(self.conv_to_float(codes, weight, bias), grid, len(bias))
        weight, whole = exact
        bias = self._bias(whole, codes.grid.step * weight.step)
        return self.quantize(self._conv(codes, weight, bias), grid, len(whole))

    exact_code_conv = code_conv

    def exact_conv_prelu(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, slope: float, grid: AnyGrid, *,
                         before: Grid | None = None) -> Codes:
        return self.quantize(self._leaky(self.conv_to_float(codes, weight, bias), slope), grid, len(bias))

    conv_prelu = conv_prelu_levels = exact_conv_prelu

    def sum_of(self, first: Codes, second: Codes, ranges: Sequence[Range], grid: AnyGrid | None = None) -> Codes:
        total = self.op("Add", first.name, second.name)
        return self.quantize(total, grid or self._range_of_sum(ranges), first.channels)

    def _range_of_sum(self, ranges):
        return self.affine_grid(*(sum(ends) for ends in zip(*ranges, strict=True)))

    def sum_grids(self, *terms: Range) -> list[Grid]:
        return [self.affine_grid(*term) for term in terms]

    def conv_sum(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, other: Codes, grids: Sequence[Grid],
                 offset: np.ndarray) -> Codes:
        return self._conv_plus(codes, weight, bias + offset, other, grids[2])

    def conv_add(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, other: Codes,
                 ranges: Sequence[Range]) -> Codes:
        return self._conv_plus(codes, weight, bias, other, self._range_of_sum(ranges))

    def accumulator_grids(self, whole: Range, part: Range) -> tuple[Grid, Grid]:
        return self.affine_grid(*whole), self.affine_grid(*part)

    def conv_accumulate(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, part: Grid,
                        gathered: Codes) -> Codes:
        return self._conv_plus(codes, weight, bias, gathered, gathered.grid)

    def _conv_plus(self, codes, weight, bias, other, grid):
        return self.quantize(self.op("Add", self.conv_to_float(codes, weight, bias), other.name), grid, len(bias))

    def conv_to_image(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid, factor: int,
                      channels: int) -> str:
        shuffled = self._shuffled(self.conv_to_float(codes, weight, bias), factor)
        if not self.symmetric:
            return self.quantize(shuffled, grid, channels).name
        return self._rounded(self.op("Clip", shuffled, *(self.float32(bound) for bound in grid.bounds)), grid)

    def pixel_shuffle(self, codes: Codes, factor: int, channels: int) -> Codes:
        """Symmetric: with a second pair, as OpenVINO 2026.4 computes a convolution of shuffled int8 values wrongly."""
        shuffled = self._shuffled(codes.name, factor)
        if self.symmetric:
            return self._pair(shuffled, codes.grid, channels)
        return replace(codes, name=shuffled, channels=channels)

    def _shuffled(self, x, factor):
        return self.op("DepthToSpace", x, blocksize=factor, mode="DCR")
