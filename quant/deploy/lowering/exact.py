"""`--rest fp32`: torch's layers in float32, and quantized layers with every level that of PyTorch.

A network is lowered by walking it as its `forward` does, with float features between its blocks.
"""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from quant.deploy.lowering.graph import Graph, array, bias_of, norm_factors
from quant.deploy.lowering.levels import Codes
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import QuantConv2d


class LayerGraph(Graph):
    """A graph to which layers of torch are added; QLinear and Qdq say what integers become of them.

    They define `quantize`, `conv_to_float`, `exact_code_conv` and `exact_conv_prelu`.
    """

    def conv(self, x: str, module: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> str:
        """A torch convolution, the batch norm behind it, if any, folded in."""
        weight, bias = array(module.weight), array(module.bias)
        if norm is not None:
            factor, offset = norm_factors(norm)
            weight, bias = weight * factor[:, None, None, None], bias_of(module) * factor + offset
        with self.within(module):
            return self.float_conv(x, weight, bias)

    def prelu(self, x: str, module: nn.PReLU) -> str:
        """PReLU; one slope for all channels, or one a channel."""
        return self.op("PRelu", x, self.constant(array(module.weight).reshape(-1, 1, 1)))

    def upsample(self, x: str, modules: Iterable[nn.Module]) -> str:
        """Convolutions, pixel shuffles and PReLUs in a row."""
        for module in modules:
            name = type(module).__name__
            if name == "PixelShuffle":
                x = self.op("DepthToSpace", x, blocksize=module.upscale_factor, mode="CRD")
            else:
                x = self.prelu(x, module) if name == "PReLU" else self.conv(x, module)
        return x

    def activate(self, quantizer: DualBoundQuantizer, x: str) -> Codes:
        """A float feature to the codes of its quantizer."""
        grid = self.grid_of(quantizer, lambda: self.float_mean(x))
        with self.within(quantizer):
            return self.record(quantizer, self.quantize(x, grid, quantizer.gate.reduce.in_channels))

    def on_float(self, conv: QuantConv2d, x: str) -> str:
        """A QuantConv2d that reads an unquantized feature: a float convolution with the quantized weight."""
        with self.within(conv):
            levels, scale = (array(value) for value in conv.integer_weight())
            return self.float_conv(x, self.float_weight(levels, scale), array(conv.bias))

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
