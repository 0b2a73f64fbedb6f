"""`--rest int8`: everything in integers, the quantized blocks and post-training int8 for whatever surrounds them.

Every feature lies on a grid. A quantizer's levels stay what the network was trained with; features between them, which
PyTorch keeps in float, get the 8-bit grid that their range on the calibration images asks for.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from quant.deploy.lowering.calibration import Calibration
from quant.deploy.lowering.code_graph import CodeGraph
from quant.deploy.lowering.graph import array, bias_of, with_norm
from quant.deploy.lowering.layout import Layout, compensated_weight, fold_shuffle
from quant.deploy.lowering.levels import UINT8_MAX, AnyGrid, Codes, Grid, IntegerWeight, Range
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import QuantConv2d

# how often the first convolution reads the image: all that follows hangs on its output, and a finer weight costs little
HEAD_COPIES = 8


class Int8:
    """Adds operators on codes to `graph`; calibration: the network's."""

    def __init__(self, graph: CodeGraph, calibration: Calibration, *, rgb_range: float) -> None:
        self.graph = graph
        self.graph.exact_floats = False
        self.calibration = calibration
        # the 256 levels of an 8-bit image, which represent its RGB exactly (a network of one colour: luma, rounded)
        self.image_grid = Grid(rgb_range / UINT8_MAX, 0, 0, UINT8_MAX)

    def grid(self, module: nn.Module, *, positive: bool = False, factor: float = 1.0,
             divided: np.ndarray | None = None) -> Grid:
        """The 8-bit grid of a module's output, after ReLU if positive, times `factor`, channels [O] `divided`."""
        low, high = self.calibration.range(module, divided)
        grid = self.graph.affine_grid(0.0 if positive else low * factor, high * factor)
        return replace(grid, low=max(grid.low, grid.zero)) if positive else grid  # symmetric ones reach below zero

    def sum_layout(self, following: nn.Conv2d, *terms: nn.Module) -> tuple[Layout, list[Grid]]:
        """(layout of a sum before the convolution `following`, a grid for each of the two terms and one for it)."""
        layout = self.calibration.layout(following, *terms)
        ranges = (self.calibration.range(term, layout.factors) for term in terms)
        return layout, [*self.graph.sum_grids(*ranges), self.input_grid(following, layout)]

    def input_grid(self, conv: nn.Conv2d, layout: Layout) -> Grid:
        """The 8-bit grid of what a convolution outside the blocks reads, in a layout."""
        return self.graph.affine_grid(*self.calibration.input_range(conv, layout.factors))

    def range_of(self, codes: Codes, module: nn.Module | None) -> Range:
        """The real range of codes; of `module`, their quantizer, where the grid's bounds are known only at run time."""
        return codes.grid.bounds if codes.grid.is_static else self.calibration.range(module)

    def conv(self, codes: Codes, module: nn.Conv2d, grid: AnyGrid, *, norm: nn.BatchNorm2d | None = None,
             factor: float = 1.0, prelu: nn.PReLU | None = None, reads: Layout | None = None,
             makes: Layout | None = None) -> Codes:
        """A convolution, the batch norm behind it folded in, times `factor`: codes to codes on `grid`.

        prelu: behind it too, of one slope, in the layout `makes` and on an 8-bit grid. reads, makes: the layouts of
        input and output, where they are in full precision.
        """
        weight, bias = self.integers_of(module, norm, reads, makes, grid)
        with self.graph.within(module):
            if prelu is None:
                return self.graph.code_conv(codes, replace(weight, step=weight.step * factor), bias * factor, grid)
            return self.graph.conv_prelu(codes, weight, bias, prelu.weight.item(), grid,
                                         before=self.grid(module, divided=makes.factors))

    def integers_of(self, module: nn.Conv2d, norm: nn.BatchNorm2d | None = None, reads: Layout | None = None,
                    makes: Layout | None = None, grid: AnyGrid | None = None) -> tuple[IntegerWeight, np.ndarray]:
        """(IntegerWeight, bias float64 [O]) of a convolution with the batch norm behind it.

        reads, makes: as for `conv`; grid: the output's, which `makes` needs.
        """
        if isinstance(module, QuantConv2d) and makes is None:
            return self.graph.integers_of(module, norm)
        if isinstance(module, QuantConv2d):
            weight, bias = self.graph.integers_of(module, norm)
            weight = weight.finer(makes.copies)
        else:
            weight = compensated_weight(array(module.weight), self.calibration.covariances[module], reads, makes)
            weight, bias = with_norm(weight, bias_of(module), norm)
        return (weight, bias) if makes is None else makes.made_by(weight, bias, grid.step)

    def restored(self, codes: Codes, layout: Layout, grid: Grid) -> Codes:
        """The network's own channels, on `grid`, of codes in a layout."""
        return self.graph.code_conv(codes, layout.inverse(), np.zeros(len(layout.copies)), grid)

    def activate(self, quantizer: DualBoundQuantizer, codes: Codes, other: Codes | None = None) -> Codes:
        """Codes, plus others if given, on the grid of a quantizer. A gate has to see the 8-bit sum first."""
        if other is not None and quantizer.gated:
            codes, other = self.sum_of(codes, other), None
        grid = self.graph.grid_of(quantizer, lambda: self.graph.mean_of(codes))
        with self.graph.within(quantizer):
            made = self.graph.requantize(codes, grid) if other is None else self.sum_of(codes, other, grid=grid)
            return self.with_constant_scale(quantizer, made)

    def with_constant_scale(self, quantizer: DualBoundQuantizer, codes: Codes) -> Codes:
        """A quantizer's codes, recorded; runtimes that take constant scales alone get them on an 8-bit grid."""
        self.graph.record(quantizer, codes)
        if codes.grid.is_static or self.graph.runtime_scales:
            return codes
        return self.graph.requantize(codes, self.graph.affine_grid(*self.calibration.range(quantizer)))

    def conv_activate(self, codes: Codes, module: nn.Conv2d, quantizer: DualBoundQuantizer, *, relu: bool = False,
                      factor: float = 1.0) -> Codes:
        """quantizer(factor * conv), a ReLU between if so asked. A gate has to see the 8-bit feature first."""
        if quantizer.gated:
            return self.activate(quantizer, self.conv(codes, module, self.grid(module, positive=relu, factor=factor),
                                                      factor=factor))
        made = self.conv(codes, module, self.graph.grid_of(quantizer, after_relu=relu), factor=factor)
        return self.graph.record(quantizer, made)

    def sum_of(self, first: Codes, second: Codes, *modules: nn.Module, grid: AnyGrid | None = None) -> Codes:
        """The sum of codes on any two grids, on `grid` if one is given; modules: as for `range_of`, of each."""
        ranges = [self.range_of(*pair) for pair in zip((first, second), modules or (None, None), strict=True)]
        return self.graph.sum_of(first, second, ranges, grid)

    def conv_sum(self, codes: Codes, module: nn.Conv2d, other: Codes, layout: Layout, grids: Sequence[Grid], *,
                 norm: nn.BatchNorm2d | None = None) -> Codes:
        """conv + other, both in a layout; layout, grids: from `sum_layout`, `other` is on the second grid."""
        weight, bias = self.integers_of(module, norm, None, layout, grids[0])
        # each term has moved its copies on its own grid, the sum moves them on its own
        moved = layout.offsets * (grids[2].step - grids[0].step - grids[1].step)
        with self.graph.within(module):
            return self.graph.conv_sum(codes, weight, bias, other, grids, moved)

    def upsample(self, x: Codes, modules: Sequence[nn.Module], last: nn.Conv2d, reads: Layout,
                 offset: Any = 0.0) -> str:
        """Stages of convolution, pixel shuffle and perhaps PReLU, then the convolution `last` plus `offset`: the image.

        The last shuffle is folded into `last`, which then works at half the size, and its output is the 8-bit image.
        reads: the layout of x.
        """
        stages = _stages(modules)
        for (conv, shuffle, prelu), following in zip(stages, [*(stage[0] for stage in stages[1:]), last], strict=True):
            factor = shuffle.upscale_factor
            # a shuffle of its own is slow with copies: they cost a quarter of EDSR x4's time
            shuffled = self.calibration.layout(following, repeat=following is last)
            makes = shuffled.before_shuffle(factor, woven=following is not last)
            grid = self.input_grid(following, shuffled)
            x = self.conv(x, conv, grid, prelu=prelu, reads=reads, makes=makes)
            reads = shuffled
            if following is not last:
                x = self.graph.pixel_shuffle(x, factor, len(shuffled.channels))
        weight, bias = self.integers_of(last, reads=reads)
        folded = IntegerWeight(fold_shuffle(weight.levels, factor), np.tile(weight.step, factor**2))
        with self.graph.within(last):
            return self.graph.conv_to_image(x, folded, np.tile(bias + offset, factor**2), self.image_grid, factor,
                                            last.out_channels)


def _stages(modules):
    """[(convolution, pixel shuffle, PReLU or None)]."""
    kinds = [type(module).__name__ for module in modules]
    starts = [i for i, kind in enumerate(kinds) if kind == "Conv2d"]
    return [(modules[i], modules[i + 1], modules[i + 2] if kinds[i + 2: i + 3] == ["PReLU"] else None) for i in starts]
