"""Operators on features: float tensors by name, and uint8 codes (`Codes`). All are [N, C, h, w].

Each is made of standard operators in the form that ONNX Runtime's CPU provider turns into one fast kernel; where that
is not obvious the docstring says which one.
"""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from quant.deploy.lowering.levels import UINT8_MAX, Grid

TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class Codes:
    """A uint8 feature in the graph, the grid that gives its values, and its number of channels."""

    name: str
    grid: Grid
    channels: int


def scalar(graph, value):
    """A float32 scalar: a number's constant, or the runtime scalar that already has a name."""
    return value if isinstance(value, str) else graph.constant(value, np.float32)


def byte(graph, value):
    """A uint8 scalar, likewise."""
    return value if isinstance(value, str) else graph.constant(value, np.uint8)


def limit(graph, codes, grid):
    """Codes held within grid.low..grid.high; whoever made them has saturated them to 0..255 already."""
    if grid.is_static and (grid.low, grid.high) == (0, UINT8_MAX):
        return codes
    return graph.op("Clip", codes, byte(graph, grid.low), byte(graph, grid.high))


def quantize(graph, x, grid, channels):
    """A float feature to its codes."""
    codes = graph.op("QuantizeLinear", x, scalar(graph, grid.step), byte(graph, grid.zero))
    return Codes(limit(graph, codes, grid), grid, channels)


def dequantize(graph, codes):
    """Codes to the float feature."""
    return graph.op("DequantizeLinear", codes.name, scalar(graph, codes.grid.step), byte(graph, codes.grid.zero))


def requantize(graph, codes, grid, *, slope=1.0):
    """Codes of another grid for the same values, or for prelu(values) with one slope.

    A LeakyRelu between DequantizeLinear and QuantizeLinear is one table look-up a value in ONNX Runtime
    (QLinearLeakyRelu), also with runtime scales; without it both conversions would pass through float tensors.
    """
    if codes.grid == grid and slope == 1:
        return codes
    changed = graph.op("LeakyRelu", dequantize(graph, codes), alpha=float(slope))
    result = graph.op("QuantizeLinear", changed, scalar(graph, grid.step), byte(graph, grid.zero))
    if not _stays_within(codes.grid, grid, slope):
        result = limit(graph, result, grid)
    return Codes(result, grid, codes.channels)


def _stays_within(source, grid, slope):
    if not (source.is_static and grid.is_static):
        return False
    low, high = source.bounds
    low = low * slope if low < 0 else low
    return all(grid.low <= round(value / grid.step) + grid.zero <= grid.high or edge
               for value, edge in ((low, grid.low == 0 and low < 0), (high, grid.high == UINT8_MAX)))


def concat(graph, parts):
    """Codes on one grid, joined along channels."""
    joined = graph.op("Concat", *(part.name for part in parts), axis=1)
    return Codes(joined, parts[0].grid, sum(part.channels for part in parts))


def requantized_concat(graph, parts, grid):
    """Codes on any grids, joined along channels on one: QLinearConcat in ONNX Runtime, one table look-up a value."""
    joined = graph.op("Concat", *(dequantize(graph, part) for part in parts), axis=1)
    result = graph.op("QuantizeLinear", joined, scalar(graph, grid.step), byte(graph, grid.zero))
    if not all(_stays_within(part.grid, grid, 1.0) for part in parts):
        result = limit(graph, result, grid)
    return Codes(result, grid, sum(part.channels for part in parts))


def float_mean(graph, x):
    """The mean of a float feature over height and width, [N, C, 1, 1].

    First along rows: GlobalAveragePool adds all pixels one after the other, and loses ten times as much to rounding.
    """
    return graph.op("ReduceMean", graph.op("ReduceMean", x, graph.integers(3)), graph.integers(2))


def mean_of(graph, codes):
    """The mean over height and width of one image's codes, in real values: float [1, C, 1, 1].

    A product with a row of ones sums in integers, without a float copy of the feature.
    """
    rows = graph.op("Reshape", graph.op("Transpose", codes.name, perm=TO_LAST), graph.integers(-1, codes.channels))
    count = graph.op("Slice", graph.op("Shape", rows), graph.integers(0), graph.integers(1))
    ones = graph.op("Expand", graph.constant(1, np.uint8), graph.op("Concat", graph.integers(1), count, axis=0))
    sums = graph.op("MatMulInteger", ones, rows, byte(graph, 0), byte(graph, codes.grid.zero))
    means = graph.op("Div", graph.op("Cast", sums, to=TensorProto.FLOAT), graph.op("Cast", count, to=TensorProto.FLOAT))
    values = graph.op("Mul", means, scalar(graph, codes.grid.step))
    return graph.op("Reshape", values, graph.integers(1, codes.channels, 1, 1))
