"""Everything in integers: the quantized blocks, and post-training int8 for whatever surrounds them.

Every feature is uint8 codes. A quantizer's levels stay what the network was trained with; features between them, which
PyTorch keeps in float, get the 8-bit grid that their range on the calibration images asks for. A sum of two features is
a sum of codes: both terms are brought to one step, and their ranges share the 256 codes, so that nothing overflows.
"""

from dataclasses import replace

import numpy as np

from quant.lowering.convs import code_conv
from quant.lowering.exact import grid_of, integers_of, is_gated, with_norm
from quant.lowering.floats import array
from quant.lowering.layers import Codes, concat, mean_of, requantize
from quant.lowering.levels import UINT8_MAX, Grid, affine_grid, rounded_weight, static_grid
from quant.weight import QuantConv2d


class Int8:
    """Adds operators on codes to `graph`; ranges: `record_ranges` of the network."""

    def __init__(self, graph, ranges):
        self.graph = graph
        self.ranges = ranges

    def grid(self, module, *, positive=False, factor=1.0):
        """The 8-bit grid of a module's output, after ReLU if positive, times `factor`."""
        low, high = self.ranges[module]
        return affine_grid(0.0 if positive else low * factor, high * factor)

    def conv(self, codes, module, grid, *, norm=None, factor=1.0):
        """A convolution, the batch norm behind it folded in, times `factor`: codes to codes on `grid`."""
        if isinstance(module, QuantConv2d):
            weight, bias = integers_of(self.graph, module)
        else:
            weight = rounded_weight(array(module.weight))
            bias = np.zeros(module.out_channels) if module.bias is None else array(module.bias).astype(np.float64)
        if norm is not None:
            weight, bias = with_norm(weight, bias, norm)
        weight = replace(weight, step=weight.step * factor)
        with self.graph.within(module):
            return code_conv(self.graph, codes, weight, bias * factor, grid)

    def activate(self, quantizer, codes):
        """Codes on the grid of a quantizer."""
        grid = grid_of(self.graph, quantizer, lambda: mean_of(self.graph, codes))
        with self.graph.within(quantizer):
            return requantize(self.graph, codes, grid)

    def conv_activate(self, codes, module, quantizer, *, relu=False, factor=1.0):
        """quantizer(factor * conv), a ReLU between if so asked. A gate has to see the 8-bit feature first."""
        if not is_gated(quantizer):
            with self.graph.within(quantizer):
                grid = static_grid(self.graph.place, quantizer, after_relu=relu)
            return self.conv(codes, module, grid, factor=factor)
        return self.activate(quantizer, self.conv(codes, module, self.grid(module, positive=relu, factor=factor),
                                                  factor=factor))

    def sum(self, *terms):
        """The sum of terms (range, make): make(grid) gives codes on a grid that covers the real range (low, high)."""
        ranges = [(min(low, 0.0), max(high, 0.0)) for (low, high), _ in terms]
        step = (sum(high - low for low, high in ranges) or 1.0) / (UINT8_MAX - 2 * len(terms))
        parts = []
        for (low, high), (_, make) in zip(ranges, terms, strict=True):
            zero = int(np.ceil(-low / step))
            parts.append(make(Grid(step, zero, 0, zero + int(np.ceil(high / step)))))
        total = parts[0]
        for part in parts[1:]:
            grid = Grid(step, total.grid.zero + part.grid.zero, 0, total.grid.high + part.grid.high)
            total = Codes(self.graph.op("Add", total.name, part.name), grid, part.channels)
        return total

    def term(self, codes, module):
        """Codes as a term of a sum; module: whose range counts where the grid's own is known at run time alone."""
        bounds = codes.grid.bounds if codes.grid.is_static else self.ranges[module]
        return bounds, lambda grid: requantize(self.graph, codes, grid)

    def conv_term(self, codes, module, norm=None):
        """A convolution as a term of a sum."""
        return self.ranges[norm or module], lambda grid: self.conv(codes, module, grid, norm=norm)


def res_block(int8, block, x):
    """EDSR's block; conv 1 reads the 8-bit codes of the block's input."""
    conv1, _, conv2 = block.body
    skip = int8.activate(block.act1, x)
    inner = int8.conv_activate(x, conv1, block.act2, relu=True)
    residual = int8.conv_activate(inner, conv2, block.act3, factor=block.res_scale)
    return int8.sum(int8.term(residual, block.act3), int8.term(skip, block.act1))


def bn_res_block(int8, block, x):
    """SRResNet's block; PReLU and act2 are one table look-up on the 8-bit codes of conv 1's output."""
    before = int8.conv(int8.activate(block.act1, x), block.conv1, int8.grid(block.in1), norm=block.in1)
    slope = block.relu.weight.item()
    grid = grid_of(int8.graph, block.act2, lambda: mean_of(
        int8.graph, requantize(int8.graph, before, int8.grid(block.relu), slope=slope)))
    with int8.graph.within(block.act2):
        inner = requantize(int8.graph, before, grid, slope=slope)
    return int8.sum(int8.conv_term(inner, block.conv2, block.in2), int8.term(x, None))


def dense_block(int8, block, x):
    """RDN's block."""
    first = dense = int8.activate(block.act1, x)
    quantizers = [part.act for part in block.convs[1:]] + [block.act2]
    for part, quantizer in zip(block.convs, quantizers, strict=True):
        dense = _grow(int8, part.conv[0], quantizer, dense)
    return int8.sum(int8.conv_term(dense, block.LFF), int8.term(first, block.act1))


def _grow(int8, conv, quantizer, dense):
    """quantizer(concatenation of dense and relu(conv(dense)))."""
    graph = int8.graph
    if not is_gated(quantizer):
        grid = grid_of(graph, quantizer, None)
        grown = int8.conv(dense, conv, replace(grid, low=max(grid.low, grid.zero)))
        return concat(graph, [requantize(graph, dense, grid), replace(grown, grid=grid)])
    grown = int8.conv(dense, conv, int8.grid(conv, positive=True))
    grid = grid_of(graph, quantizer,
                   lambda: graph.op("Concat", mean_of(graph, dense), mean_of(graph, grown), axis=1))
    return concat(graph, [requantize(graph, dense, grid), requantize(graph, grown, grid)])


def global_fusion(int8, block, features):
    """RDN's fusion, up to the last convolution, which is left as a term of a sum."""
    graph = int8.graph
    grid = grid_of(graph, block.act, lambda: graph.op("Concat", *(mean_of(graph, x) for x in features), axis=1))
    codes = concat(graph, [requantize(graph, feature, grid) for feature in features])
    return int8.conv_term(int8.conv(codes, block[0], int8.grid(block[0])), block[1])
