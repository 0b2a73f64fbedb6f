"""Everything in integers: the quantized blocks, and post-training int8 for whatever surrounds them.

Every feature is uint8 codes. A quantizer's levels stay what the network was trained with; features between them, which
PyTorch keeps in float, get the 8-bit grid that their range on the calibration images asks for. A sum of two features is
a sum of codes: both terms are brought to one step, and their ranges share the 256 codes, so that nothing overflows.
"""

from dataclasses import replace

import numpy as np

from quant.deploy.lowering.convs import code_conv
from quant.deploy.lowering.exact import grid_of, integers_of, is_gated, with_norm
from quant.deploy.lowering.floats import array
from quant.deploy.lowering.layers import Codes, byte, limit, mean_of, requantize, requantized_concat
from quant.deploy.lowering.levels import Grid, IntegerWeight, affine_grid, static_grid, term_grids
from quant.deploy.lowering.rounding import compensated_weight
from quant.weight import QuantConv2d


class Int8:
    """Adds operators on codes to `graph`; seen: the network's Calibration."""

    def __init__(self, graph, seen):
        self.graph = graph
        self.seen = seen

    def grid(self, module, *, positive=False, factor=1.0):
        """The 8-bit grid of a module's output, after ReLU if positive, times `factor`."""
        low, high = self.seen.range(module)
        return affine_grid(0.0 if positive else low * factor, high * factor)

    def range_of(self, codes, module):
        """The real range of codes; of `module`, their quantizer, where the grid's bounds are known only at run time."""
        return codes.grid.bounds if codes.grid.is_static else self.seen.range(module)

    def integers_of(self, module, norm=None, factor=1.0):
        """(IntegerWeight, bias float64 [O]) of a convolution, the batch norm behind it folded in, times `factor`."""
        if isinstance(module, QuantConv2d):
            weight, bias = integers_of(self.graph, module)
        else:
            weight = compensated_weight(array(module.weight), self.seen.covariances[module])
            bias = np.zeros(module.out_channels) if module.bias is None else array(module.bias).astype(np.float64)
        if norm is not None:
            weight, bias = with_norm(weight, bias, norm)
        return replace(weight, step=weight.step * factor), bias * factor

    def conv(self, codes, module, grid, *, norm=None, factor=1.0):
        """A convolution, the batch norm behind it folded in, times `factor`: codes to codes on `grid`."""
        weight, bias = self.integers_of(module, norm, factor)
        with self.graph.within(module):
            return code_conv(self.graph, codes, weight, bias, grid)

    def conv_prelu(self, codes, module, prelu, grid, *, order=slice(None)):
        """prelu(conv) on `grid`, an 8-bit grid, the output channels in `order`; the PReLU has one slope.

        As a positive part and a negative one, one of them zero, their sum: to round before PReLU would cost more than
        the second convolution, as most of what is negative then, and the steps it asks for, is soon scaled away.
        """
        weight, bias = self.integers_of(module)
        weight, bias = IntegerWeight(weight.levels[order], weight.step[order]), bias[order]
        slope = prelu.weight.item()
        with self.graph.within(module):
            if slope <= 0:
                return requantize(self.graph, code_conv(self.graph, codes, weight, bias, self.grid(module)), grid,
                                  slope=slope)
            positive = code_conv(self.graph, codes, weight, bias, replace(grid, low=grid.zero))
            weight = replace(weight, step=weight.step * slope)
            negative = code_conv(self.graph, codes, weight, bias * slope, replace(grid, high=grid.zero))
            both = self.graph.op("Add", positive.name, negative.name)
            return replace(positive, name=self.graph.op("Sub", both, byte(self.graph, grid.zero)), grid=grid)

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

    def add(self, first, second):
        """The sum of codes on `term_grids`."""
        grid = Grid(first.grid.step, first.grid.zero + second.grid.zero, 0, first.grid.high + second.grid.high)
        return Codes(self.graph.op("Add", first.name, second.name), grid, first.channels)

    def requantized_sum(self, first, second, *modules):
        """The sum of codes on any two grids; modules: as for `range_of`, of each."""
        terms = (first, second)
        grids = term_grids(*(self.range_of(*pair) for pair in zip(terms, modules or (None, None), strict=True)))
        return self.add(*(requantize(self.graph, term, grid) for term, grid in zip(terms, grids, strict=True)))


def res_block(int8, block, x):
    """EDSR's block; conv 1 reads the 8-bit codes of the block's input."""
    conv1, _, conv2 = block.body
    skip = int8.activate(block.act1, x)
    inner = int8.conv_activate(x, conv1, block.act2, relu=True)
    residual = int8.conv_activate(inner, conv2, block.act3, factor=block.res_scale)
    return int8.requantized_sum(residual, skip, block.act3, block.act1)


def bn_res_body(int8, blocks, head):
    """SRResNet's blocks in a row.

    What all blocks together add to `head` is kept apart from it, on a grid of its own that all blocks add to: beside
    the head's range their residuals are so small that a few codes would have to do, and each sum would round again.
    """
    gathered, x = None, head
    whole, part = _gathering_grids(int8, blocks)
    for block in blocks:
        with int8.graph.within(block):
            if gathered is None:
                gathered = _bn_residual(int8, block, x, whole)
            else:
                residual = _bn_residual(int8, block, x, part)
                total = int8.graph.op("Sub", int8.graph.op("Add", gathered.name, residual.name),
                                      byte(int8.graph, part.zero))
                gathered = replace(gathered, name=limit(int8.graph, total, whole))
            x = int8.requantized_sum(head, gathered)
    return x


def _gathering_grids(int8, blocks):
    """(grid of the sum of residuals, grid of one), of one step; no code of the first and the second overflow."""
    whole, part = term_grids(*(_covering(int8, modules) for modules in (blocks, [block.in2 for block in blocks])))
    return replace(whole, zero=whole.zero + part.zero, low=part.zero, high=whole.high + part.zero), part


def _covering(int8, modules):
    """The range that covers those of several modules."""
    lows, highs = zip(*(int8.seen.range(module) for module in modules), strict=True)
    return min(lows), max(highs)


def _bn_residual(int8, block, x, grid):
    """in2(conv2(act2(relu(in1(conv1(act1(x))))))); PReLU and act2 are one table look-up on 8-bit codes."""
    graph, slope = int8.graph, block.relu.weight.item()
    low, high = int8.seen.range(block.in1)
    if not is_gated(block.act2) and slope > 0:  # what act2 clips need not be represented
        bounds = grid_of(graph, block.act2, None).bounds
        low, high = max(low, bounds[0] / slope), min(high, bounds[1])
    before = int8.conv(int8.activate(block.act1, x), block.conv1, affine_grid(low, high), norm=block.in1)
    act2 = grid_of(graph, block.act2, lambda: mean_of(
        graph, requantize(graph, before, int8.grid(block.relu), slope=slope)))
    with graph.within(block.act2):
        inner = requantize(graph, before, act2, slope=slope)
    return int8.conv(inner, block.conv2, grid, norm=block.in2)


def dense_block(int8, block, x):
    """RDN's block."""
    first = dense = int8.activate(block.act1, x)
    quantizers = [part.act for part in block.convs[1:]] + [block.act2]
    for part, quantizer in zip(block.convs, quantizers, strict=True):
        dense = _grow(int8, part.conv[0], quantizer, dense)
    skip = first if block.skip is None else int8.activate(block.skip, x)
    fused, kept = term_grids(int8.seen.range(block.LFF), int8.range_of(skip, block.skip or block.act1))
    return int8.add(int8.conv(dense, block.LFF, fused), requantize(int8.graph, skip, kept))


def _grow(int8, conv, quantizer, dense):
    """quantizer(concatenation of dense and relu(conv(dense))), gated ones' levels on a static 8-bit grid.

    On the gate's own grid the next convolution's bias would depend on the runtime scale, and ONNX Runtime's fastest
    kernel takes constants alone: without it 512 channels take 2.5 times as long. A level moves by 1/510 of the range
    at most.
    """
    graph = int8.graph
    if not is_gated(quantizer):
        grid = grid_of(graph, quantizer, None)
        grown = int8.conv(dense, conv, replace(grid, low=max(grid.low, grid.zero)))
        return requantized_concat(graph, [dense, grown], grid)
    grown = int8.conv(dense, conv, int8.grid(conv, positive=True))
    grid = grid_of(graph, quantizer,
                   lambda: graph.op("Concat", mean_of(graph, dense), mean_of(graph, grown), axis=1))
    levels = [requantize(graph, codes, grid) for codes in (dense, grown)]
    return requantized_concat(graph, levels, affine_grid(*int8.seen.range(quantizer)))


def global_fusion(int8, block, features, grid):
    """RDN's fusion, on `grid`."""
    graph = int8.graph
    act = grid_of(graph, block.act, lambda: graph.op("Concat", *(mean_of(graph, x) for x in features), axis=1))
    codes = requantized_concat(graph, features, act)
    return int8.conv(int8.conv(codes, block[0], int8.grid(block[0])), block[1], grid)
