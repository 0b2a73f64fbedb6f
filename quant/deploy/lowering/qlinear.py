"""Integer operators, `--format qlinear`: features are uint8 codes, convolutions QLinearConv and MatMulInteger.

Everything is made of standard operators in the form that ONNX Runtime's CPU provider turns into one fast kernel; where
that is not obvious the docstring says which one.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from quant.deploy.lowering import levels
from quant.deploy.lowering.code_graph import CodeGraph
from quant.deploy.lowering.exact import exact_conv
from quant.deploy.lowering.gate import runtime_bounds, runtime_codes
from quant.deploy.lowering.layout import MAX_WEIGHT_LEVEL
from quant.deploy.lowering.levels import UINT8_MAX, AnyGrid, Codes, Grid, IntegerWeight, Range
from quant.deploy.lowering.windows import window_conv
from quant.methods.ddtb import DualBoundQuantizer

LEAST_RUNTIME_STEP = 1e-3  # of a gate's grid, for the room that biases need; half of it will do, too


class QLinear(CodeGraph):
    """A graph of integer operators. CodeGraph says what each method gives, docstrings here how and why."""

    runtime_scales = True
    # kernels for fewer output channels are up to ten times slower than those for 16
    least_channels = 16

    def described(self, codes: Codes) -> list:
        return [codes.name, codes.grid.step, codes.grid.zero]

    def affine_grid(self, low: float, high: float) -> Grid:
        return levels.affine_grid(low, high)

    def runtime_grid(self, quantizer: DualBoundQuantizer, pooled: str) -> Grid:
        return runtime_codes(self, quantizer, runtime_bounds(self, quantizer, pooled))

    def image(self, grid: Grid, channels: int) -> Codes:
        return self.quantize("lr", grid, channels)

    def image_with_ones(self, grid: Grid, channels: int, copies: int) -> Codes:
        image = self.image(grid, channels)
        ones = self.op("Pad", image.name, self.int64(0, 0, 0, 0, 0, 1, 0, 0), self.uint8(image.grid.high))
        return self.concat([replace(image, name=ones, channels=image.channels + 1)] * copies)

    def _limit(self, codes, grid):
        """Codes held within grid.low..grid.high; the operator before has saturated them to 0..255."""
        if grid.is_static and (grid.low, grid.high) == (0, UINT8_MAX):
            return codes
        return self.op("Clip", codes, self.uint8(grid.low), self.uint8(grid.high))

    def quantize(self, x: str, grid: AnyGrid, channels: int, *, held: bool = False) -> Codes:
        """A float feature to its codes; held: none of its values lies beyond the grid's codes."""
        codes = self.op("QuantizeLinear", x, self.float32(grid.step), self.uint8(grid.zero))
        return Codes(codes if held else self._limit(codes, grid), grid, channels)

    def dequantize(self, codes: Codes) -> str:
        return self.op("DequantizeLinear", codes.name, self.float32(codes.grid.step), self.uint8(codes.grid.zero))

    def requantize(self, codes: Codes, grid: AnyGrid, *, slope: float = 1.0) -> Codes:
        """A LeakyRelu between DequantizeLinear and QuantizeLinear is one table look-up a value in ONNX Runtime
        (QLinearLeakyRelu), also with runtime scales; without it both conversions would pass through float tensors.
        """
        if codes.grid == grid and slope == 1:
            return codes
        changed = self.op("LeakyRelu", self.dequantize(codes), alpha=float(slope))
        return self.quantize(changed, grid, codes.channels, held=levels.stays_within(codes.grid, grid, slope))

    def requantized_concat(self, parts: Sequence[Codes], grid: AnyGrid) -> Codes:
        """QLinearConcat in ONNX Runtime, one table look-up a value."""
        joined = self.op("Concat", *(self.dequantize(part) for part in parts), axis=1)
        return self.quantize(joined, grid, sum(part.channels for part in parts),
                             held=all(levels.stays_within(part.grid, grid, 1.0) for part in parts))

    def mean_of(self, codes: Codes) -> str:
        """Products with a row of ones sum each row in integers, without a float copy of the feature. Rows are added in
        float64, exact like integers: an int32 holds 8 million pixels.
        """
        pixels = self.op("Transpose", codes.name, perm=levels.TO_LAST)
        shape = self.op("Shape", pixels)
        height, width = (self.op("Slice", shape, self.int64(axis), self.int64(axis + 1)) for axis in (1, 2))
        ones = self.op("Expand", self.constant(1, np.uint8), self.op("Concat", self.int64(1), width, axis=0))
        rows = self.op("MatMulInteger", ones, pixels, self.uint8(0), self.uint8(codes.grid.zero))
        sums = self.op("ReduceSum", self.op("Cast", rows, to=TensorProto.DOUBLE), self.int64(1, 2))
        count = self.op("Mul", height, width)
        means = self.op("Div", *(self.op("Cast", x, to=TensorProto.FLOAT) for x in (sums, count)))
        values = self.op("Mul", means, self.float32(codes.grid.step))
        return self.op("Reshape", values, self.int64(1, codes.channels, 1, 1))

    def exact_code_conv(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid) -> Codes | None:
        """Each code exactly the level, or None where that can't be had."""
        exact = exact_conv(weight, bias, codes.grid, grid)
        return None if exact is None else self._qlinear_conv(codes, *exact, grid)

    def exact_conv_prelu(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, slope: float,
                         grid: AnyGrid) -> Codes | None:
        """Two convolutions to codes and their sum cost half of one convolution to a float feature."""
        if slope <= 0 or not grid.low <= grid.zero <= grid.high:
            return None
        exact = [(found, half) for weight, bias, half in _in_two(weight, bias, slope, grid)
                 if (found := exact_conv(weight, bias, codes.grid, half)) is not None]
        if len(exact) < 2:
            return None
        return self._joined([self._qlinear_conv(codes, *found, half) for found, half in exact], grid)

    def _joined(self, parts, grid):
        """The sum of what `_in_two` gave, two Codes; one of them is zero everywhere."""
        both = self.op("Add", *(part.name for part in parts))
        return Codes(self.op("Sub", both, self.uint8(grid.zero)), grid, parts[0].channels)

    def code_conv(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid) -> Codes:
        """Of constant or runtime steps; where not exact, the bias is in units of the sums."""
        exact = self.exact_code_conv(codes, weight, bias, grid) if levels.has_few_codes(grid) else None
        if exact is not None:
            return exact
        step = codes.grid.step if codes.grid.is_static else LEAST_RUNTIME_STEP
        weight = weight.spread(codes.grid.largest_code).holding(bias, step)
        if codes.grid.is_static:
            whole = levels.rounded_bias(bias, codes.grid.step * weight.step)
        else:
            units = self.op("Div", self.constant(bias / weight.step, np.float32), codes.grid.step)
            whole = self.op("Cast", self.op("Round", units), to=TensorProto.INT32)
        return self._qlinear_conv(codes, weight, whole, grid)

    def conv_prelu(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, slope: float, grid: AnyGrid, *,
                   before: Grid) -> Codes:
        """Rounding before PReLU would cost more than the second convolution: negative values would widen the grid, and
        PReLU then scales most of that width away.
        """
        if slope <= 0:
            return self.conv_prelu_levels(codes, weight, bias, slope, grid, before=before)
        return self._joined([self.code_conv(codes, *part) for part in _in_two(weight, bias, slope, grid)], grid)

    def conv_prelu_levels(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, slope: float, grid: AnyGrid, *,
                          before: Grid) -> Codes:
        """conv on an 8-bit grid, then one table look-up a value."""
        return self.requantize(self.code_conv(codes, weight, bias, before), grid, slope=slope)

    def _qlinear_conv(self, codes, weight, bias, grid):
        """QLinearConv: ONNX Runtime's fastest integer kernel, if features are uint8 with a constant zero point and
        weights int8 without one. bias: int32 [O], or the name of one that is computed at run time."""
        self.convolutions["in integers"] += 1
        size = weight.levels.shape[-1]
        kernel = (self.weight(weight.levels), self.constant(weight.step, np.float32),
                  self.constant(np.zeros(np.shape(weight.step)), np.int8))
        result = self.op("QLinearConv", codes.name, self.float32(codes.grid.step), self.uint8(codes.grid.zero), *kernel,
                         self.float32(grid.step), self.uint8(grid.zero),
                         bias if isinstance(bias, str) else self.constant(bias),
                         kernel_shape=[size, size], pads=[size // 2] * 4)
        return Codes(self._limit(result, grid), grid, len(weight.levels))

    def conv_to_float(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray) -> str:
        """The sums are exact integers."""
        return window_conv(self, codes, weight, bias)

    def add(self, first: Codes, second: Codes) -> Codes:
        """The sum of codes on `term_grids`, which have one step and leave room: a plain Add."""
        grid = Grid(first.grid.step, first.grid.zero + second.grid.zero, 0, first.grid.high + second.grid.high)
        return Codes(self.op("Add", first.name, second.name), grid, first.channels)

    def sum_of(self, first: Codes, second: Codes, ranges: Sequence[Range], grid: AnyGrid | None = None) -> Codes:
        grids = levels.term_grids(*ranges)
        total = self.add(*(self.requantize(term, one) for term, one in zip((first, second), grids, strict=True)))
        return total if grid is None else self.requantize(total, grid)

    def sum_grids(self, *terms: Range) -> list[Grid]:
        """Steps that are whole multiples of one unit."""
        grids = [levels.affine_grid(*term) for term in terms]
        unit = _unit(grids)
        steps = [unit * np.ceil(grid.step / unit) for grid in grids]
        return [replace(grid, step=step, zero=round(grid.zero * grid.step / step))
                for grid, step in zip(grids, steps, strict=True)]

    def conv_sum(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, other: Codes, grids: Sequence[Grid],
                 offset: np.ndarray) -> Codes:
        """A 1x1 convolution adds codes of unlike steps exactly and rounds once.
        """
        terms = [self.code_conv(codes, weight, bias, grids[0]), other]
        unit, ones = _unit(grids[:2]), np.eye(len(bias), dtype=np.int64)
        whole = np.concatenate([ones * round(term.grid.step / unit) for term in terms], 1)[:, :, None, None]
        zeros = sum(term.grid.zero * term.grid.step for term in terms)
        both = replace(self.concat(terms), grid=Grid(1.0, 0, 0, UINT8_MAX))
        return self.code_conv(both, IntegerWeight(whole, unit), offset - zeros, grids[2])

    def conv_add(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, other: Codes,
                 ranges: Sequence[Range]) -> Codes:
        grids = levels.term_grids(*ranges)
        return self.add(self.code_conv(codes, weight, bias, grids[0]), self.requantize(other, grids[1]))

    def accumulator_grids(self, whole: Range, part: Range) -> tuple[Grid, Grid]:
        """Of one step; no code of both overflows."""
        total, one = levels.term_grids(whole, part)
        return replace(total, zero=total.zero + one.zero, low=one.zero, high=total.high + one.zero), one

    def conv_accumulate(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, part: Grid,
                        gathered: Codes) -> Codes:
        term = self.code_conv(codes, weight, bias, part)
        total = self.op("Sub", self.op("Add", gathered.name, term.name), self.uint8(part.zero))
        return replace(gathered, name=self._limit(total, gathered.grid))

    def conv_to_image(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid, factor: int,
                      channels: int) -> str:
        unused = max(self.least_channels - len(weight.levels), 0)
        padded = IntegerWeight(np.pad(weight.levels, ((0, unused), (0, 0), (0, 0), (0, 0))),
                               np.pad(weight.step, (0, unused), constant_values=1.0))
        image = self.code_conv(codes, padded, np.pad(bias, (0, unused)), grid)
        if unused:
            kept = (self.int64(0), self.int64(len(bias)), self.int64(1))
            image = replace(image, name=self.op("Slice", image.name, *kept))
        return self.dequantize(self.pixel_shuffle(image, factor, channels))

    def pixel_shuffle(self, codes: Codes, factor: int, channels: int) -> Codes:
        """In the layout of the integer kernels, channels innermost, this moves whole runs of channels.
        """
        pixels = self.op("Transpose", codes.name, perm=levels.TO_LAST)
        size = self.op("Mul", self.op("Slice", self.op("Shape", pixels), self.int64(0), self.int64(3)),
                       self.int64(1, factor, factor))
        split = self.op("Reshape", pixels, self.int64(0, 0, 0, factor, factor * channels))
        woven = self.op("Transpose", split, perm=(0, 1, 3, 2, 4))
        whole = self.op("Reshape", woven, self.op("Concat", size, self.int64(channels), axis=0))
        return Codes(self.op("Transpose", whole, perm=levels.TO_FIRST), codes.grid, channels)


def _in_two(weight, bias, slope, grid):
    """[(weight, bias, grid)] of the positive and the negative part of prelu(conv)."""
    return [(weight, bias, replace(grid, low=grid.zero)),
            (replace(weight, step=weight.step * slope), bias * slope, replace(grid, high=grid.zero))]


def _unit(grids):
    """What the steps of grids are multiples of, in a convolution that adds codes."""
    return max(grid.step for grid in grids) / MAX_WEIGHT_LEVEL
