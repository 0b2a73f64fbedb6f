"""What the networks' files share: torch's layers in float32, and quantized layers with every level that of PyTorch.

A network is lowered by walking it as its `forward` does, in `--rest fp32` with float features between its blocks.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from quant.deploy.lowering.gate import runtime_bounds
from quant.deploy.lowering.graph import Graph
from quant.deploy.lowering.levels import AnyGrid, Codes, Grid, IntegerWeight, quantized_weight, static_grid
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import QuantConv2d


class LayerGraph(Graph):
    """A graph to which layers of torch are added; QLinear and Qdq say what integers become of them.

    They define `runtime_grid`, `quantize`, `conv_to_float`, `exact_code_conv` and `exact_conv_prelu`.
    """

    def check(self, name: str, grid: Grid) -> None:
        """Raise UserError where the format does not hold a quantizer's grid; uint8 codes, as in QLinear, hold any."""

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

    def grid_of(self, quantizer: DualBoundQuantizer, pooled: Any = None, *, after_relu: bool = False) -> AnyGrid:
        """A quantizer's grid; pooled() makes the float [N, C, 1, 1] means of its input, called only for a gate.

        after_relu: no input is negative.
        """
        if not quantizer.gated:
            with self.within(quantizer):
                grid = static_grid(self.place, quantizer, after_relu=after_relu)
                self.check(self.place, grid)
                return grid
        with self.within(quantizer.gate):
            return self.runtime_grid(quantizer, runtime_bounds(self, quantizer, pooled()))

    def activate(self, quantizer: DualBoundQuantizer, x: str) -> Codes:
        """A float feature to the codes of its quantizer."""
        grid = self.grid_of(quantizer, lambda: self.float_mean(x))
        with self.within(quantizer):
            return self.note(quantizer, self.quantize(x, grid, quantizer.gate.reduce.in_channels))

    def integers_of(self, conv: QuantConv2d, norm: nn.BatchNorm2d | None = None) -> tuple[IntegerWeight, np.ndarray]:
        """(IntegerWeight, bias float64 [O]) of a QuantConv2d, the batch norm behind it folded in."""
        return with_norm(quantized_weight(self._places[conv], conv), bias_of(conv), norm)

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
        return None if made is None else self.note(quantizer, made)


def array(tensor: Tensor) -> np.ndarray:
    """A tensor's values as NumPy, or None for None."""
    return None if tensor is None else tensor.detach().cpu().numpy()


def norm_factors(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm by running statistics as (factor, offset), float64 [C] each."""
    factor = array(norm.weight).astype(np.float64) / np.sqrt(array(norm.running_var).astype(np.float64) + norm.eps)
    return factor, array(norm.bias) - array(norm.running_mean) * factor


def gated(network: nn.Module) -> list[DualBoundQuantizer]:
    """The quantizers of the network that have a gate applied."""
    return [module for module in network.modules() if isinstance(module, DualBoundQuantizer) and module.gated]


def bias_of(conv: nn.Conv2d) -> np.ndarray:
    """A convolution's bias, float64 [O]; zeros where it has none."""
    return np.zeros(conv.out_channels) if conv.bias is None else array(conv.bias).astype(np.float64)


def with_norm(weight: IntegerWeight, bias: np.ndarray, norm: nn.BatchNorm2d | None) -> tuple[IntegerWeight, np.ndarray]:
    """IntegerWeight and bias with the batch norm behind them, if any, folded in."""
    if norm is None:
        return weight, bias
    factor, offset = norm_factors(norm)
    return weight.scaled(factor), bias * factor + offset
