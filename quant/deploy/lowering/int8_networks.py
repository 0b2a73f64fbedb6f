"""The three networks around their int8 blocks: image to codes, upsampling, codes to image."""

from dataclasses import replace

import numpy as np

from model.edsr import EDSR
from model.rdn import RDN
from model.srresnet import SRResNet
from quant.deploy.lowering.convs import code_conv, pixel_shuffle
from quant.deploy.lowering.floats import array
from quant.deploy.lowering.int8 import bn_res_body, dense_block, global_fusion, res_block
from quant.deploy.lowering.layers import Codes, byte, concat, dequantize
from quant.deploy.lowering.levels import UINT8_MAX, Grid, IntegerWeight, term_grids
from quant.deploy.lowering.rounding import rounded_weight
from quant.deploy.lowering.upsampling import fold_shuffle, shuffle_order

# kernels for fewer output channels are up to ten times slower than those for 16
LEAST_CHANNELS = 16
# how often EDSR's head reads the image: all that follows hangs on its output, and a finer weight costs little
HEAD_COPIES = 4


def image_grid(rgb_range):
    """The 256 levels of an 8-bit image."""
    return Grid(rgb_range / UINT8_MAX, 0, 0, UINT8_MAX)


def image_codes(graph, channels, rgb_range):
    """The input `lr`: an 8-bit image is represented exactly."""
    grid = image_grid(rgb_range)
    codes = graph.op("QuantizeLinear", "lr", graph.constant(grid.step, np.float32), byte(graph, 0))
    return Codes(codes, grid, channels)


def edsr(int8, network, rgb_range):
    """EDSR from `lr` to sr."""
    last = network.body[-1]
    mapped, kept = term_grids(int8.seen.range(last), int8.seen.range(network.head[0]))
    head = x = _head_without_mean(int8, network, rgb_range, kept)
    for block in network.body[:-1]:
        with int8.graph.within(block):
            x = res_block(int8, block, x)
    feature = int8.add(int8.conv(x, last, mapped), head)
    return upsample(int8, feature, [*network.tail[0]], network.tail[1], rgb_range,
                    offset=array(network.add_mean.bias))


def _head_without_mean(int8, network, rgb_range, grid):
    """sub_mean and the head's convolution in one, on `grid`.

    Zero padding means the mean colour, so the mean can't go into the bias: a channel of ones carries it.
    """
    graph, conv = int8.graph, network.head[0]
    image = image_codes(graph, conv.in_channels, rgb_range)
    ones = graph.op("Pad", image.name, graph.integers(0, 0, 0, 0, 0, 1, 0, 0), byte(graph, UINT8_MAX))
    read = concat(graph, [Codes(ones, image.grid, conv.in_channels + 1)] * HEAD_COPIES)
    weight = array(conv.weight).astype(np.float64)
    shift = array(network.sub_mean.bias) / rgb_range
    weight = np.concatenate((weight, np.einsum("ocij,c->oij", weight, shift)[:, None]), 1)
    with graph.within(conv):
        return code_conv(graph, read, rounded_weight(weight, HEAD_COPIES), array(conv.bias), grid)


def rdn(int8, network, rgb_range):
    """RDN from `lr` to sr."""
    image = image_codes(int8.graph, network.SFENet1.in_channels, rgb_range)
    mapped, kept = term_grids(int8.seen.range(network.GFF[1]), int8.seen.range(network.SFENet1))
    shallow = int8.conv(image, network.SFENet1, kept)
    x = int8.conv(shallow, network.SFENet2, int8.grid(network.SFENet2))
    features = []
    for block in network.RDBs:
        with int8.graph.within(block):
            x = dense_block(int8, block, x)
        features.append(x)
    feature = int8.add(global_fusion(int8, network.GFF, features, mapped), shallow)
    return upsample(int8, feature, [*network.UPNet[:-1]], network.UPNet[-1], rgb_range)


def srresnet(int8, network, rgb_range):
    """SRResNet from `lr` to sr."""
    image = image_codes(int8.graph, network.conv_input.in_channels, rgb_range)
    mapped, kept = term_grids(int8.seen.range(network.bn_mid), int8.seen.range(network.relu))
    head = int8.conv_prelu(image, network.conv_input, network.relu, kept)
    x = bn_res_body(int8, list(network.residual), head)
    feature = int8.add(int8.conv(x, network.conv_mid, mapped, norm=network.bn_mid), head)
    return upsample(int8, feature, [*network.upscale], network.conv_output, rgb_range)


def upsample(int8, x, modules, last, rgb_range, offset=0.0):
    """Stages of convolution, pixel shuffle and perhaps PReLU, then the convolution `last`, plus `offset`: the image.

    The last shuffle is folded into `last`, which then works at half the size, and its output is the 8-bit image.
    """
    stages = _stages(modules)
    for conv, shuffle, prelu in stages:
        factor = shuffle.upscale_factor
        channels = conv.out_channels // factor**2
        if shuffle is stages[-1][1]:
            x = _stage(int8, x, conv, prelu, slice(None))
        else:
            x = _stage(int8, x, conv, prelu, shuffle_order(channels, factor))
            x = Codes(pixel_shuffle(int8.graph, x.name, factor, channels), x.grid, channels)
    return _image(int8, x, last, factor, rgb_range, offset)


def _stages(modules):
    """[(convolution, pixel shuffle, PReLU or None)]."""
    kinds = [type(module).__name__ for module in modules]
    starts = [i for i, kind in enumerate(kinds) if kind == "Conv2d"]
    return [(modules[i], modules[i + 1], modules[i + 2] if kinds[i + 2: i + 3] == ["PReLU"] else None) for i in starts]


def _stage(int8, x, conv, prelu, order):
    """A convolution, and PReLU where there is one, its output channels in `order`."""
    if prelu is not None:
        return int8.conv_prelu(x, conv, prelu, int8.grid(prelu), order=order)
    weight, bias = int8.integers_of(conv)
    with int8.graph.within(conv):
        return code_conv(int8.graph, x, IntegerWeight(weight.levels[order], weight.step[order]), bias[order],
                         int8.grid(conv))


def _image(int8, x, last, factor, rgb_range, offset):
    graph = int8.graph
    weight, bias = int8.integers_of(last)
    levels, step, bias = fold_shuffle(weight.levels, factor), np.tile(weight.step, factor**2), np.tile(bias + offset,
                                                                                                      factor**2)
    unused = max(LEAST_CHANNELS - len(levels), 0)
    levels, bias = np.pad(levels, ((0, unused), (0, 0), (0, 0), (0, 0))), np.pad(bias, (0, unused))
    weight = IntegerWeight(levels, np.pad(step, (0, unused), constant_values=1.0))
    with graph.within(last):
        image = code_conv(graph, x, weight, bias, image_grid(rgb_range))
        pixels = image.name
        if unused:
            pixels = graph.op("Slice", pixels, graph.integers(0), graph.integers(len(levels) - unused),
                              graph.integers(1))
        return dequantize(graph, replace(image, name=pixel_shuffle(graph, pixels, factor, last.out_channels)))


INT8_NETWORKS = {EDSR: edsr, RDN: rdn, SRResNet: srresnet}
