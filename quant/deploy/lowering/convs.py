"""Convolutions on features, all with `same` zero padding: float, codes to codes, codes to float."""

import numpy as np
from onnx import TensorProto

from quant.deploy.lowering.layers import TO_FIRST, TO_LAST, Codes, byte, limit, scalar
from quant.deploy.lowering.levels import exact_requantization, rounded_bias

# codes of quantizers, against those of 8-bit features, where a level's exact place means nothing
MOST_EXACT_LEVELS = 64
END = 2**31 - 1


def float_conv(graph, x, weight, bias=None):
    """A float convolution; weight [O, I, k, k], bias [O]."""
    size = weight.shape[-1]
    inputs = [x, graph.constant(weight, np.float32)] + ([] if bias is None else [graph.constant(bias, np.float32)])
    return graph.op("Conv", *inputs, kernel_shape=[size, size], pads=[size // 2] * 4)


def exact_code_conv(graph, codes, weight, bias, grid):
    """Codes to codes on `grid`, each exactly the level that real arithmetic gives, or None where that can't be had.

    weight: IntegerWeight, its step including whatever the output is multiplied by; bias: real [O], likewise.
    """
    if not (codes.grid.is_static and grid.is_static):
        return None
    weight = weight.spread(codes.grid.largest_code)
    exact = exact_requantization(weight, bias, codes.grid, grid)
    if exact is None:
        return None
    bias, factors = exact
    return _qlinear_conv(graph, codes, weight.levels, factors * grid.step / codes.grid.step, graph.constant(bias), grid)


def code_conv(graph, codes, weight, bias, grid):
    """Codes to codes on `grid`, exact where that can be had, elsewhere with the bias rounded to the sums' units.

    weight, bias: as for `exact_code_conv`. The steps of both grids may be runtime scalars.
    """
    if grid.is_static and grid.high - grid.low < MOST_EXACT_LEVELS:
        exact = exact_code_conv(graph, codes, weight, bias, grid)
        if exact is not None:
            return exact
    weight = weight.spread(codes.grid.largest_code)
    if codes.grid.is_static:
        bias = graph.constant(rounded_bias(bias, codes.grid.step * weight.step))
    else:
        units = graph.op("Div", graph.constant(bias / weight.step, np.float32), codes.grid.step)
        bias = graph.op("Cast", graph.op("Round", units), to=TensorProto.INT32)
    return _qlinear_conv(graph, codes, weight.levels, weight.step, bias, grid)


def _qlinear_conv(graph, codes, levels, step, bias, grid):
    """QLinearConv: ONNX Runtime's fastest integer kernel, if features are uint8 with a constant zero point and weights
    int8 without one. bias: its name; step: [O] or one number."""
    size = levels.shape[-1]
    weight = (graph.constant(levels, np.int8), graph.constant(step, np.float32),
              graph.constant(np.zeros(np.shape(step)), np.int8))
    result = graph.op("QLinearConv", codes.name, scalar(graph, codes.grid.step), byte(graph, codes.grid.zero), *weight,
                      scalar(graph, grid.step), byte(graph, grid.zero), bias,
                      kernel_shape=[size, size], pads=[size // 2] * 4)
    return Codes(limit(graph, result, grid), grid, len(levels))


def integer_conv(graph, codes, weight, bias):
    """Codes to a float feature, the sums exact integers: the windows side by side, then MatMulInteger.

    ConvInteger says the same in one node, but its kernel is two to four times slower than this (measured; it is slower
    than a float convolution). weight: IntegerWeight, step one number or [O]; bias: real [O].
    """
    out_channels, _, size, _ = weight.levels.shape
    matrix = weight.levels.transpose(2, 3, 1, 0).reshape(-1, out_channels)
    sums = graph.op("MatMulInteger", _windows(graph, codes, size), graph.constant(matrix, np.int8),
                    byte(graph, codes.grid.zero))
    unit = _times(graph, weight.step, codes.grid.step)
    scaled = graph.op("Mul", graph.op("Cast", sums, to=TensorProto.FLOAT), unit)
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
    pads = graph.integers(0, margin, margin, 0, 0, margin, margin, 0)
    padded = graph.op("Pad", pixels, pads, byte(graph, codes.grid.zero))
    shifted = []
    for row in range(size):
        rows = _cut(graph, padded, 1, row, size)
        shifted += [_cut(graph, rows, 2, column, size) for column in range(size)]
    return graph.op("Concat", *shifted, axis=3)


def _cut(graph, x, axis, start, size):
    """`size` - 1 fewer positions along the axis, from `start` on."""
    stop = start - size + 1 or END
    return graph.op("Slice", x, graph.integers(start), graph.integers(stop), graph.integers(axis))


def pixel_shuffle(graph, x, factor, channels):
    """[N, factor*factor*channels, h, w], channels last in that order, to [N, channels, factor*h, factor*w].

    Any dtype. In the layout of the integer kernels, channels innermost, this moves whole runs of channels.
    """
    pixels = graph.op("Transpose", x, perm=TO_LAST)
    size = graph.op("Mul", graph.op("Slice", graph.op("Shape", pixels), graph.integers(0), graph.integers(3)),
                    graph.integers(1, factor, factor))
    split = graph.op("Reshape", pixels, graph.integers(0, 0, 0, factor, factor * channels))
    woven = graph.op("Transpose", split, perm=(0, 1, 3, 2, 4))
    whole = graph.op("Reshape", woven, graph.op("Concat", size, graph.integers(channels), axis=0))
    return graph.op("Transpose", whole, perm=TO_FIRST)
