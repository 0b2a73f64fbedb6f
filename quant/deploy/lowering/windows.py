"""A convolution of codes to a float feature: windows side by side, then one product of integer matrices."""

import numpy as np
from onnx import TensorProto

from quant.deploy.lowering.graph import Graph
from quant.deploy.lowering.levels import TO_FIRST, TO_LAST, Codes, IntegerWeight

END = 2**31 - 1


def window_conv(graph: Graph, codes: Codes, weight: IntegerWeight, bias: np.ndarray) -> str:
    """The float feature [N, O, h, w] of uint8 codes; bias: real [O].

    ConvInteger says the same in one node, but its kernel is two to four times slower than MatMulInteger with this
    (measured; it is slower than a float convolution).
    """
    graph.convolutions["in integers"] += 1
    out_channels, _, size, _ = weight.levels.shape
    matrix = weight.levels.transpose(2, 3, 1, 0).reshape(-1, out_channels)
    sums = graph.op("MatMulInteger", _windows(graph, codes, size), graph.weight(matrix), graph.uint8(codes.grid.zero))
    scaled = graph.op("Mul", graph.op("Cast", sums, to=TensorProto.FLOAT), _times(graph, weight.step, codes.grid.step))
    return graph.op("Transpose", graph.op("Add", scaled, graph.constant(bias, np.float32)), perm=TO_FIRST)


def _times(graph, factor, step):
    if isinstance(step, str):
        return graph.op("Mul", step, graph.constant(factor, np.float32))
    return graph.constant(factor * step, np.float32)


def _windows(graph, codes, size):
    """[N, h, w, size*size*C]: each pixel's window, row by row, channels last."""
    pixels = graph.op("Transpose", codes.name, perm=TO_LAST)
    if size == 1:
        return pixels
    margin = size // 2
    pads = graph.int64(0, margin, margin, 0, 0, margin, margin, 0)
    padded = graph.op("Pad", pixels, pads, graph.uint8(codes.grid.zero))
    shifted = []
    for row in range(size):
        rows = _cut(graph, padded, 1, row, size)
        shifted += [_cut(graph, rows, 2, column, size) for column in range(size)]
    return graph.op("Concat", *shifted, axis=3)


def _cut(graph, x, axis, start, size):
    """`size` - 1 fewer positions along the axis, from `start` on."""
    stop = start - size + 1 or END
    return graph.op("Slice", x, graph.int64(start), graph.int64(stop), graph.int64(axis))
