"""SRResNet as a graph: the network and its block in float, with exact levels, and in int8."""

from model.srresnet import BNResBlock, SRResNet
from quant.blocks import QuantBNResBlock
from quant.deploy.lowering.code_graph import CodeGraph
from quant.deploy.lowering.graph import Graph
from quant.deploy.lowering.int8 import HEAD_COPIES, Int8
from quant.deploy.lowering.layout import Layout


def lower_exact(graph: CodeGraph, network: SRResNet) -> str:
    """SRResNet from `lr` to sr, its blocks in float or with exact levels."""
    head = graph.prelu(graph.conv("lr", network.conv_input), network.relu)
    x = head
    for block in network.residual:
        with graph.within(block):
            x = BLOCKS[type(block)](graph, block, x)
    feature = graph.op("Add", graph.conv(x, network.conv_mid, network.bn_mid), head)
    return graph.upsample(feature, [*network.upscale, network.conv_output])


def float_block(graph: Graph, block: BNResBlock, x: str) -> str:
    """The block in full precision."""
    hidden = graph.prelu(graph.conv(x, block.conv1, block.in1), block.relu)
    return graph.op("Add", graph.conv(hidden, block.conv2, block.in2), x)


def exact_block(graph: CodeGraph, block: QuantBNResBlock, x: str) -> str:
    """The quantized block."""
    codes = graph.activate(block.act1, x)
    inner = graph.exact(block.act2, block.conv1, codes, block.in1, slope=block.relu.weight.item()) or \
        graph.activate(block.act2, graph.prelu(graph.on_codes(block.conv1, codes, block.in1), block.relu))
    return graph.op("Add", graph.on_codes(block.conv2, inner, block.in2), x)


def lower_int8(int8: Int8, network: SRResNet) -> str:
    """SRResNet from `lr` to sr in integers."""
    first, act = network.conv_input, network.relu
    layout, grids = int8.sum_layout(network.upscale[0], network.bn_mid, act)
    image = int8.graph.concat([int8.graph.image(int8.image_grid, first.in_channels)] * HEAD_COPIES)
    reads = Layout.repeated(first.in_channels, HEAD_COPIES)
    head = int8.conv(image, first, grids[1], prelu=act, reads=reads, makes=layout)
    x = _int8_body(int8, list(network.residual), int8.restored(head, layout, int8.grid(act)))
    feature = int8.conv_sum(x, network.conv_mid, head, layout, grids, norm=network.bn_mid)
    return int8.upsample(feature, [*network.upscale], network.conv_output, layout)


def _int8_body(int8, blocks, head):
    """All blocks in a row.

    What they together add to `head` is kept apart from it, on a grid of its own that all blocks add to: beside the
    head's range their residuals are so small that a few codes would have to do, and each sum would round again.
    """
    gathered = None
    ranges = (_covering(int8, modules) for modules in (blocks, [block.in2 for block in blocks]))
    whole, part = int8.graph.accumulator_grids(*ranges)
    for block in blocks:
        with int8.graph.within(block):
            inner = _int8_inner(int8, block, int8.activate(block.act1, head, gathered))
            if gathered is None:
                gathered = int8.conv(inner, block.conv2, whole, norm=block.in2)
                continue
            weight, bias = int8.integers_of(block.conv2, block.in2)
            with int8.graph.within(block.conv2):
                gathered = int8.graph.conv_accumulate(inner, weight, bias, part, gathered)
    return int8.sum_of(head, gathered)


def _covering(int8, modules):
    """The range that covers those of several modules."""
    lows, highs = zip(*(int8.calibration.range(module) for module in modules), strict=True)
    return min(lows), max(highs)


def _int8_inner(int8, block, levels):
    """act2(relu(in1(conv1(levels)))); relu is a PReLU of one slope."""
    graph, slope = int8.graph, block.relu.weight.item()
    low, high = int8.calibration.range(block.in1)
    if block.act2.gated:
        before = int8.conv(levels, block.conv1, graph.affine_grid(low, high), norm=block.in1)
        grid = graph.grid_of(block.act2, lambda: graph.mean_of(
            graph.requantize(before, int8.grid(block.relu), slope=slope)))
        with graph.within(block.act2):
            return int8.with_constant_scale(block.act2, graph.requantize(before, grid, slope=slope))
    grid = graph.grid_of(block.act2)
    if slope > 0:  # what act2 clips need not be represented
        low, high = max(low, grid.bounds[0] / slope), min(high, grid.bounds[1])
    weight, bias = int8.integers_of(block.conv1, block.in1)
    with graph.within(block.conv1):
        inner = graph.conv_prelu_levels(levels, weight, bias, slope, grid, before=graph.affine_grid(low, high))
    return graph.record(block.act2, inner)


BLOCKS = {BNResBlock: float_block, QuantBNResBlock: exact_block}
