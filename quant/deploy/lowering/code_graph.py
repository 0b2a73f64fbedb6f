"""A graph that has quantized layers: what both kinds of operators share, and what each of them has to define.

`--rest fp32` walks a network as its `forward` does: float features between blocks, every level that of PyTorch.
`--rest int8` works through int8.Int8, on codes from the image to the image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto
from torch import nn

from quant.deploy.lowering.graph import Graph, array, bias_of, with_norm
from quant.deploy.lowering.levels import (
    INT8_MAX,
    AnyGrid,
    Codes,
    Grid,
    IntegerWeight,
    Range,
    quantized_weight,
    static_grid,
)
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import QuantConv2d


class CodeGraph(Graph, ABC):
    """A graph whose features are float tensors or Codes. Its two kinds, QLinear and Qdq, say what codes are.

    In all methods: features are [N, C, h, w], convolutions have `same` padding. weight: an IntegerWeight whose step
    includes whatever the output is multiplied by; bias: real [O], likewise. grid: of the result. ranges: (low, high) of
    each term of a sum, real values.
    """

    # whether scales and zero points may be computed while the graph runs
    runtime_scales: bool

    def __init__(self, network: nn.Module, *, packed: dict[int, int] | None = None) -> None:
        super().__init__(network, packed=packed)
        self.recorded: dict[str, Codes] = {}
        # whether every value is to be PyTorch's, `--rest fp32`; int8.Int8 rounds what it makes
        self.exact_floats = True

    def record(self, quantizer: nn.Module, codes: Codes) -> Codes:
        """Keep the feature that a quantizer makes: `quant.verify` looks at it. Returns it."""
        self.recorded[self._places[quantizer]] = codes
        return codes

    def grid_of(self, quantizer: DualBoundQuantizer, pooled: Callable[[], str] | None = None, *,
                after_relu: bool = False) -> AnyGrid:
        """A quantizer's grid; pooled() makes the float [N, C, 1, 1] means of its input, called only for a gate.

        after_relu: no input is negative.
        """
        if not quantizer.gated:
            with self.within(quantizer):
                grid = static_grid(self.scope, quantizer, after_relu=after_relu)
                self.check(self.scope, grid)
                return grid
        with self.within(quantizer.gate):
            return self.runtime_grid(quantizer, pooled())

    def integers_of(self, conv: QuantConv2d, norm: nn.BatchNorm2d | None = None) -> tuple[IntegerWeight, np.ndarray]:
        """(IntegerWeight, bias float64 [O]) of a QuantConv2d, the batch norm behind it folded in."""
        return with_norm(quantized_weight(self._places[conv], conv), bias_of(conv), norm)

    def activate(self, quantizer: DualBoundQuantizer, x: str) -> Codes:
        """A float feature to the codes of its quantizer."""
        grid = self.grid_of(quantizer, lambda: self.float_mean(x))
        with self.within(quantizer):
            return self.record(quantizer, self.quantize(x, grid, quantizer.gate.reduce.in_channels))

    def on_float(self, conv: QuantConv2d, x: str) -> str:
        """A QuantConv2d that reads an unquantized feature: a float convolution with the quantized weight."""
        with self.within(conv):
            levels, scale = (array(value) for value in conv.integer_weight())
            if self._packed and np.abs(levels).max() <= INT8_MAX:
                whole = self.op("Cast", self.weight(levels.astype(np.int64)), to=TensorProto.FLOAT)
                weight = self.op("Div", whole, self.constant(scale, np.float32))
            else:
                weight = self.constant(levels / scale, np.float32)
            return self.float_conv(x, weight, levels.shape[-1], array(conv.bias))

    def on_codes(self, conv: QuantConv2d, codes: Codes, norm: nn.BatchNorm2d | None = None) -> str:
        """A QuantConv2d on codes, to a float feature; norm: the batch norm behind it."""
        weight, bias = self.integers_of(conv, norm)
        with self.within(conv):
            return self.conv_to_float(codes, weight, bias)

    def exact(self, quantizer: DualBoundQuantizer, conv: QuantConv2d, codes: Codes,
              norm: nn.BatchNorm2d | None = None, *, factor: float = 1.0, slope: float | None = None) -> Codes | None:
        """quantizer(factor * conv), a PReLU of one slope between if given, from codes; None where it can't be exact."""
        if quantizer.gated:
            return None
        grid = self.grid_of(quantizer)
        weight, bias = self.integers_of(conv, norm)
        exactly = (codes, replace(weight, step=weight.step * factor), bias * factor)
        with self.within(conv):
            made = self.exact_code_conv(*exactly, grid) if slope is None else \
                self.exact_conv_prelu(*exactly, slope, grid)
        return None if made is None else self.record(quantizer, made)

    def concat(self, parts: Sequence[Codes]) -> Codes:
        """Features on one grid, joined along channels."""
        joined = self.op("Concat", *(part.name for part in parts), axis=1)
        return Codes(joined, parts[0].grid, sum(part.channels for part in parts))

    def check(self, name: str, grid: Grid) -> None:
        """Raise UserError where the codes do not hold the grid of quantizer `name`; uint8 codes hold any."""

    @abstractmethod
    def described(self, codes: Codes) -> list:
        """Where a file's reader finds a quantizer's levels: an entry of onnx_backend.Metadata's `levels`."""

    @abstractmethod
    def affine_grid(self, low: float, high: float) -> Grid:
        """The 8-bit grid that spans low..high and has an exact zero."""

    @abstractmethod
    def runtime_grid(self, quantizer: DualBoundQuantizer, pooled: str) -> AnyGrid:
        """The grid that a gate sets for one image; pooled: as for gate.runtime_bounds."""

    @abstractmethod
    def image(self, grid: Grid, channels: int) -> Codes:
        """The input `lr` as codes."""

    @abstractmethod
    def image_with_ones(self, grid: Grid, channels: int, copies: int) -> Codes:
        """The image and a channel with its largest value, `copies` times."""

    @abstractmethod
    def quantize(self, x: str, grid: AnyGrid, channels: int) -> Codes:
        """A float feature to its codes."""

    @abstractmethod
    def dequantize(self, codes: Codes) -> str:
        """Codes to the float feature."""

    @abstractmethod
    def requantize(self, codes: Codes, grid: AnyGrid, *, slope: float = 1.0) -> Codes:
        """Codes of another grid for the same values, or for prelu(values) with one slope."""

    @abstractmethod
    def requantized_concat(self, parts: Sequence[Codes], grid: AnyGrid) -> Codes:
        """Codes on any grids, joined along channels on one."""

    @abstractmethod
    def mean_of(self, codes: Codes) -> str:
        """The mean over height and width of one image's codes, in real values: float [1, C, 1, 1]."""

    @abstractmethod
    def conv_to_float(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray) -> str:
        """A convolution of codes to a float feature."""

    @abstractmethod
    def code_conv(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid) -> Codes:
        """A convolution, codes to codes; exact where a bias and scales are found that put each sum on its level."""

    @abstractmethod
    def exact_code_conv(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid) -> Codes | None:
        """A convolution, each code the level that real arithmetic gives, as near as this kind can; None: not near."""

    @abstractmethod
    def exact_conv_prelu(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, slope: float,
                         grid: AnyGrid) -> Codes | None:
        """prelu(conv), likewise."""

    @abstractmethod
    def conv_prelu(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, slope: float, grid: AnyGrid, *,
                   before: Grid) -> Codes:
        """prelu(conv) on an 8-bit grid; before: the 8-bit grid of conv."""

    @abstractmethod
    def conv_prelu_levels(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, slope: float, grid: AnyGrid, *,
                          before: Grid) -> Codes:
        """prelu(conv) on a quantizer's grid; before: the 8-bit grid of conv."""

    @abstractmethod
    def sum_of(self, first: Codes, second: Codes, ranges: Sequence[Range], grid: AnyGrid | None = None) -> Codes:
        """The sum of codes on any two grids; grid: an 8-bit one that holds the ranges where not given."""

    @abstractmethod
    def sum_grids(self, *terms: Range) -> list[Grid]:
        """The 8-bit grids of the two terms of a `conv_sum`, from their ranges."""

    @abstractmethod
    def conv_sum(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, other: Codes, grids: Sequence[Grid],
                 offset: np.ndarray) -> Codes:
        """conv + other + offset; grids: of conv, of other (`sum_grids`) and of the sum. offset: real [O]."""

    @abstractmethod
    def conv_add(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, other: Codes,
                 ranges: Sequence[Range]) -> Codes:
        """conv + other, on an 8-bit grid that holds the ranges."""

    @abstractmethod
    def accumulator_grids(self, whole: Range, part: Range) -> tuple[Grid, Grid]:
        """(8-bit grid of a sum of many terms, that of one), from their ranges."""

    @abstractmethod
    def conv_accumulate(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, part: Grid,
                        gathered: Codes) -> Codes:
        """gathered + conv, on the grid of `gathered`; this and `part`, conv's, are `accumulator_grids`."""

    @abstractmethod
    def conv_to_image(self, codes: Codes, weight: IntegerWeight, bias: np.ndarray, grid: AnyGrid, factor: int,
                      channels: int) -> str:
        """The image, float, of a convolution to [N, factor*factor*channels, h, w] and a pixel shuffle; grid: its."""

    @abstractmethod
    def pixel_shuffle(self, codes: Codes, factor: int, channels: int) -> Codes:
        """[N, factor*factor*channels, h, w], channels last in that order, to [N, channels, factor*h, factor*w]."""
