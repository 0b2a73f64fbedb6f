"""What the networks' files share: layers in float32, and quantized layers with every level that of PyTorch.

A network is lowered by walking it as its `forward` does, in `--rest fp32` with float features between its blocks.
`graph` is a QLinear or a Qdq.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from quant.activation import ActivationQuantizer
from quant.deploy.lowering.codes import AnyGrid, Codes
from quant.deploy.lowering.gate import runtime_bounds
from quant.deploy.lowering.levels import IntegerWeight, quantized_weight, static_grid
from quant.deploy.lowering.qdq import Qdq
from quant.deploy.lowering.qlinear import QLinear
from quant.methods.ddtb import DualBoundQuantizer
from quant.phase import Phase
from quant.weight import QuantConv2d

Operators = QLinear | Qdq
Blocks = Mapping[type, Callable[..., str]]  # for each class of block the function that adds it to a graph


def array(tensor: Tensor) -> np.ndarray:
    """A tensor's values as NumPy, or None for None."""
    return None if tensor is None else tensor.detach().cpu().numpy()


def conv(graph: Operators, x: str, module: nn.Conv2d) -> str:
    """A torch convolution."""
    with graph.within(module):
        return graph.float_conv(x, array(module.weight), array(module.bias))


def folded_conv(graph: Operators, x: str, module: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
    """A convolution with the batch norm behind it folded in."""
    factor, offset = norm_factors(norm)
    with graph.within(module):
        return graph.float_conv(x, array(module.weight) * factor[:, None, None, None],
                                bias_of(module) * factor + offset)


def norm_factors(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm by running statistics as (factor, offset), float64 [C] each."""
    factor = array(norm.weight).astype(np.float64) / np.sqrt(array(norm.running_var).astype(np.float64) + norm.eps)
    return factor, array(norm.bias) - array(norm.running_mean) * factor


def prelu(graph: Operators, x: str, module: nn.PReLU) -> str:
    """PReLU; one slope for all channels, or one a channel."""
    return graph.op("PRelu", x, graph.constant(array(module.weight).reshape(-1, 1, 1)))


def upsample(graph: Operators, x: str, modules: Iterable[nn.Module]) -> str:
    """Convolutions, pixel shuffles and PReLUs in a row."""
    for module in modules:
        name = type(module).__name__
        if name == "PixelShuffle":
            x = graph.op("DepthToSpace", x, blocksize=module.upscale_factor, mode="CRD")
        else:
            x = prelu(graph, x, module) if name == "PReLU" else conv(graph, x, module)
    return x


def is_gated(quantizer: ActivationQuantizer) -> bool:
    """Whether a quantizer's bounds come from its gate."""
    return quantizer.dynamic and quantizer.phase is Phase.DYNAMIC


def gated(network: nn.Module) -> list[DualBoundQuantizer]:
    """The quantizers of the network that have a gate applied."""
    return [module for module in network.modules() if isinstance(module, DualBoundQuantizer) and is_gated(module)]


def grid_of(graph: Operators, quantizer: DualBoundQuantizer, pooled: Any, *,
            after_relu: bool = False) -> AnyGrid:
    """A quantizer's grid; pooled() makes the float [N, C, 1, 1] means of its input, called only for a gate.

    after_relu: no input is negative.
    """
    if not is_gated(quantizer):
        with graph.within(quantizer):
            grid = static_grid(graph.place, quantizer, after_relu=after_relu)
            graph.check(graph.place, grid)
            return grid
    with graph.within(quantizer.gate):
        means = pooled()
    with graph.within(quantizer):
        return graph.runtime_grid(quantizer, runtime_bounds(graph, quantizer, means))


def activate(graph: Operators, quantizer: DualBoundQuantizer, x: str) -> Codes:
    """A float feature to the codes of its quantizer."""
    grid = grid_of(graph, quantizer, lambda: graph.float_mean(x))
    with graph.within(quantizer):
        return graph.note(graph.quantize(x, grid, quantizer.gate.reduce.in_channels))


def bias_of(conv: nn.Conv2d) -> np.ndarray:
    """A convolution's bias, float64 [O]; zeros where it has none."""
    return np.zeros(conv.out_channels) if conv.bias is None else array(conv.bias).astype(np.float64)


def integers_of(graph: Operators, conv: QuantConv2d,
                norm: nn.BatchNorm2d | None = None) -> tuple[IntegerWeight, np.ndarray]:
    """(IntegerWeight, bias float64 [O]) of a QuantConv2d, the batch norm behind it folded in."""
    with graph.within(conv):
        return with_norm(quantized_weight(graph.place, conv), bias_of(conv), norm)


def on_float(graph: Operators, conv: QuantConv2d, x: str) -> str:
    """A QuantConv2d that reads an unquantized feature: a float convolution with the quantized weight."""
    with graph.within(conv):
        levels, scale = (array(value) for value in conv.integer_weight())
        return graph.float_conv(x, graph.float_weight(levels, scale), array(conv.bias))


def on_codes(graph: Operators, conv: QuantConv2d, codes: Codes, norm: nn.BatchNorm2d | None = None) -> str:
    """A QuantConv2d on codes, to a float feature; norm: the batch norm behind it."""
    weight, bias = integers_of(graph, conv, norm)
    with graph.within(conv):
        return graph.conv_to_float(codes, weight, bias)


def with_norm(weight: IntegerWeight, bias: np.ndarray,
              norm: nn.BatchNorm2d | None) -> tuple[IntegerWeight, np.ndarray]:
    """IntegerWeight and bias with the batch norm behind them, if any, folded in."""
    if norm is None:
        return weight, bias
    factor, offset = norm_factors(norm)
    return weight.scaled(factor), bias * factor + offset
