"""Quantized blocks whose every level equals that of the PyTorch network: integer convolutions, float in between."""

from dataclasses import replace

import numpy as np

from quant.blocks import QuantBNResBlock, QuantDenseBlock, QuantGlobalFusion, QuantResBlock
from quant.deploy.lowering.convs import exact_code_conv, float_conv, integer_conv
from quant.deploy.lowering.floats import array, norm_factors, prelu
from quant.deploy.lowering.gate import runtime_grid
from quant.deploy.lowering.layers import Codes, byte, concat, dequantize, float_mean, mean_of, quantize, requantize
from quant.deploy.lowering.levels import quantized_weight, static_grid
from quant.methods.ddtb import DualBoundQuantizer
from quant.phase import Phase


def is_gated(quantizer):
    """Whether a quantizer's bounds come from its gate."""
    return quantizer.dynamic and quantizer.phase is Phase.DYNAMIC


def any_gated(network):
    """Whether any quantizer of the network has a gate applied."""
    return any(isinstance(module, DualBoundQuantizer) and is_gated(module) for module in network.modules())


def grid_of(graph, quantizer, pooled):
    """A quantizer's grid; pooled() makes the float [1, C, 1, 1] means of its input, called only for a gate."""
    if not is_gated(quantizer):
        with graph.within(quantizer):
            return static_grid(graph.place, quantizer)
    with graph.within(quantizer.gate):
        means = pooled()
    with graph.within(quantizer):
        return runtime_grid(graph, quantizer, means)


def activate(graph, quantizer, x):
    """A float feature to the codes of its quantizer."""
    grid = grid_of(graph, quantizer, lambda: float_mean(graph, x))
    with graph.within(quantizer):
        return quantize(graph, x, grid, quantizer.gate.reduce.in_channels)


def integers_of(graph, conv):
    """(IntegerWeight, bias float64 [O]) of a QuantConv2d."""
    with graph.within(conv):
        bias = np.zeros(conv.out_channels) if conv.bias is None else array(conv.bias).astype(np.float64)
        return quantized_weight(graph.place, conv), bias


def on_float(graph, conv, x):
    """A QuantConv2d that reads an unquantized feature: a float convolution with the quantized weight."""
    with graph.within(conv):
        return float_conv(graph, x, array(conv.quantized_weight()), array(conv.bias))


def on_codes(graph, conv, codes, norm=None):
    """A QuantConv2d on codes, to a float feature; norm: the batch norm behind it."""
    weight, bias = integers_of(graph, conv)
    if norm is not None:
        weight, bias = with_norm(weight, bias, norm)
    with graph.within(conv):
        return integer_conv(graph, codes, weight, bias)


def with_norm(weight, bias, norm):
    """IntegerWeight and bias with the batch norm behind them folded in."""
    factor, offset = norm_factors(norm)
    return weight.scaled(factor), bias * factor + offset


def res_block(graph, block, x):
    """EDSR's block: conv 1 reads a float feature by the method and stays a float convolution."""
    conv1, _, conv2 = block.body
    skip = activate(graph, block.act1, x)
    inner = activate(graph, block.act2, graph.op("Relu", on_float(graph, conv1, x)))
    residual = _scaled_residual(graph, block, conv2, inner)
    return graph.op("Add", dequantize(graph, residual), dequantize(graph, skip))


def _scaled_residual(graph, block, conv, inner):
    """act3(res_scale * conv(inner)) as codes."""
    if not is_gated(block.act3):
        weight, bias = integers_of(graph, conv)
        weight = replace(weight, step=weight.step * block.res_scale)
        grid = grid_of(graph, block.act3, None)
        with graph.within(conv):
            codes = exact_code_conv(graph, inner, weight, bias * block.res_scale, grid)
        if codes is not None:
            return codes
    residual = on_codes(graph, conv, inner)
    if block.res_scale != 1:
        residual = graph.op("Mul", residual, graph.constant(block.res_scale, np.float32))
    return activate(graph, block.act3, residual)


def bn_res_block(graph, block, x):
    """SRResNet's block."""
    inner = _activated_prelu(graph, block, activate(graph, block.act1, x))
    return graph.op("Add", on_codes(graph, block.conv2, inner, block.in2), x)


def _activated_prelu(graph, block, codes):
    """act2(relu(in1(conv1(codes)))) as codes; relu is a PReLU."""
    in_parts = None if is_gated(block.act2) else _prelu_in_parts(graph, block, codes)
    if in_parts is not None:
        return in_parts
    hidden = prelu(graph, on_codes(graph, block.conv1, codes, block.in1), block.relu)
    return activate(graph, block.act2, hidden)


def _prelu_in_parts(graph, block, codes):
    """The same as a positive and a negative part, one of them zero: two convolutions to codes and their sum.

    That costs half of one convolution to a float feature. None where the slope is not positive, or levels not exact.
    """
    grid = grid_of(graph, block.act2, None)
    slope = block.relu.weight.item() if block.relu.weight.numel() == 1 else 0.0
    if slope <= 0 or not grid.low <= grid.zero <= grid.high:
        return None
    weight, bias = with_norm(*integers_of(graph, block.conv1), block.in1)
    with graph.within(block.conv1):
        positive = exact_code_conv(graph, codes, weight, bias, replace(grid, low=grid.zero))
        weight = replace(weight, step=weight.step * slope)
        negative = exact_code_conv(graph, codes, weight, bias * slope, replace(grid, high=grid.zero))
        if positive is None or negative is None:
            return None
        both = graph.op("Add", positive.name, negative.name)
        return Codes(graph.op("Sub", both, byte(graph, grid.zero)), grid, block.conv1.out_channels)


def dense_block(graph, block, x):
    """RDN's block: what was concatenated before is brought from level to level by table look-up."""
    first = dense = activate(graph, block.act1, x)
    quantizers = [part.act for part in block.convs[1:]] + [block.act2]
    for part, quantizer in zip(block.convs, quantizers, strict=True):
        dense = _grow(graph, part.conv[0], quantizer, dense)
    kept = first if block.skip is None else activate(graph, block.skip, x)
    return graph.op("Add", on_codes(graph, block.LFF, dense), dequantize(graph, kept))


def _grow(graph, conv, quantizer, dense):
    """quantizer(concatenation of dense and relu(conv(dense))), codes to codes."""
    fresh = None
    if is_gated(quantizer):
        fresh = graph.op("Relu", on_codes(graph, conv, dense))
    grid = grid_of(graph, quantizer,
                   lambda: graph.op("Concat", mean_of(graph, dense), float_mean(graph, fresh), axis=1))
    if fresh is None:
        weight, bias = integers_of(graph, conv)
        positive = replace(grid, low=max(grid.low, grid.zero))
        with graph.within(conv):
            grown = exact_code_conv(graph, dense, weight, bias, positive)
        if grown is None:
            fresh = graph.op("Relu", on_codes(graph, conv, dense))
    with graph.within(quantizer):
        if fresh is not None:
            grown = quantize(graph, fresh, grid, conv.out_channels)
        return concat(graph, [requantize(graph, dense, grid), grown])


def global_fusion(graph, block, features):
    """RDN's fusion: the 1x1 convolution in integers, the 3x3 one reads a float feature by the method."""
    channels = block[0].in_channels // len(features)
    grid = grid_of(graph, block.act, lambda: graph.op("Concat", *(float_mean(graph, x) for x in features), axis=1))
    with graph.within(block.act):
        codes = concat(graph, [quantize(graph, feature, grid, channels) for feature in features])
    return on_float(graph, block[1], on_codes(graph, block[0], codes))


EXACT_BLOCKS = {QuantResBlock: res_block, QuantBNResBlock: bn_res_block, QuantDenseBlock: dense_block,
                QuantGlobalFusion: global_fusion}
