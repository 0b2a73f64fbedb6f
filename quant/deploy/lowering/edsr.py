"""EDSR as a graph: the network and its block in float, with exact levels, and in int8."""

import numpy as np
import torch

from model.common import MeanShift
from model.edsr import EDSR, ResBlock
from quant.blocks import QuantResBlock
from quant.deploy.lowering.code_graph import CodeGraph
from quant.deploy.lowering.graph import Graph, array
from quant.deploy.lowering.int8 import HEAD_COPIES, Int8
from quant.deploy.lowering.layout import Layout, compensated_weight
from quant.deploy.lowering.levels import Codes
from utility import UserError


def lower_exact(graph: CodeGraph, network: EDSR) -> str:
    """EDSR from `lr` to sr, its blocks in float or with exact levels."""
    head = graph.conv(shift(graph, "lr", network.sub_mean), network.head[0])
    x = head
    for block in network.body[:-1]:
        with graph.within(block):
            x = BLOCKS[type(block)](graph, block, x)
    feature = graph.op("Add", graph.conv(x, network.body[-1]), head)
    return shift(graph, graph.upsample(feature, [*network.tail[0], network.tail[1]]), network.add_mean)


def shift(graph: Graph, image: str, module: MeanShift) -> str:
    """A MeanShift, whose 1x1 convolution is an addition."""
    return graph.op("Add", image, graph.constant(mean_of(module).reshape(-1, 1, 1)))


def mean_of(module: MeanShift) -> np.ndarray:
    """What a MeanShift adds, [n_colors]. Raises UserError where it multiplies, too."""
    if not torch.equal(module.weight[:, :, 0, 0], torch.eye(module.out_channels)):
        raise UserError("EDSR: its sub_mean or add_mean divides by a standard deviation; such a network can be "
                        "trained, tested and packed, not exported")
    return array(module.bias)


def float_block(graph: Graph, block: ResBlock, x: str) -> str:
    """The block in full precision."""
    residual = graph.conv(graph.op("Relu", graph.conv(x, block.body[0])), block.body[2])
    return graph.op("Add", x, _scaled(graph, block, residual))


def _scaled(graph, block, residual):
    if block.res_scale == 1:
        return residual
    return graph.op("Mul", residual, graph.constant(block.res_scale, np.float32))


def exact_block(graph: CodeGraph, block: QuantResBlock, x: str) -> str:
    """act3(res_scale * conv2(act2(relu(conv1(x))))) + act1(x); by the method conv1 reads floats, and stays float."""
    conv1, _, conv2 = block.body
    skip = graph.activate(block.act1, x)
    inner = graph.activate(block.act2, graph.op("Relu", graph.on_float(conv1, x)))
    residual = graph.exact(block.act3, conv2, inner, factor=block.res_scale) or \
        graph.activate(block.act3, _scaled(graph, block, graph.on_codes(conv2, inner)))
    return graph.op("Add", graph.dequantize(residual), graph.dequantize(skip))


def lower_int8(int8: Int8, network: EDSR) -> str:
    """EDSR from `lr` to sr in integers."""
    last, first = network.body[-1], network.head[0]
    layout, grids = int8.sum_layout(network.tail[0][0], last, first)
    # the blocks read a finer grid than the sum can have; a second convolution costs less than 1 %
    whole = Layout.repeated(first.out_channels, 1)
    head, x = _heads_without_mean(int8, network, (grids[1], layout), (int8.grid(first), whole))
    for block in network.body[:-1]:
        with int8.graph.within(block):
            x = int8_block(int8, block, x)
    feature = int8.conv_sum(x, last, head, layout, grids)
    return int8.upsample(feature, [*network.tail[0]], network.tail[1], layout, mean_of(network.add_mean))


def _heads_without_mean(int8, network, *places):
    """sub_mean and the head's convolution in one, for each (grid, layout) of `places`.

    Zero padding means the mean colour, so the mean can't go into the bias: a channel of ones carries it.
    """
    graph, conv = int8.graph, network.head[0]
    mean, brightest = mean_of(network.sub_mean), int8.image_grid.bounds[1]
    image = graph.image_with_ones(int8.image_grid, conv.in_channels, HEAD_COPIES)
    weight = array(conv.weight).astype(np.float64)
    weight = np.concatenate((weight, np.einsum("ocij,c->oij", weight, mean / brightest)[:, None]), 1)
    reads = Layout.repeated(weight.shape[1], HEAD_COPIES)
    covariance = int8.calibration.covariance_before_shift(conv, mean, brightest)
    with graph.within(conv):
        return [graph.code_conv(image, *layout.made_by(compensated_weight(weight, covariance, reads, layout),
                                                       array(conv.bias), grid.step), grid) for grid, layout in places]


def int8_block(int8: Int8, block: QuantResBlock, x: Codes) -> Codes:
    """act3(res_scale * conv2(act2(relu(conv1(x))))) + act1(x); conv1 reads the 8-bit codes of the block's input."""
    conv1, _, conv2 = block.body
    skip = int8.activate(block.act1, x)
    inner = int8.conv_activate(x, conv1, block.act2, relu=True)
    residual = int8.conv_activate(inner, conv2, block.act3, factor=block.res_scale)
    return int8.sum_of(residual, skip, block.act3, block.act1)


BLOCKS = {ResBlock: float_block, QuantResBlock: exact_block}
