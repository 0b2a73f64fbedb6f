"""RDN as a graph: the network and its blocks in float, with exact levels, and in int8."""

from collections.abc import Sequence
from dataclasses import replace

from model.rdn import RDN, DenseBlock, GlobalFusion
from quant.blocks import QuantDenseBlock, QuantGlobalFusion
from quant.deploy.lowering.code_graph import CodeGraph
from quant.deploy.lowering.graph import Graph
from quant.deploy.lowering.int8 import Int8
from quant.deploy.lowering.levels import Codes


def lower_exact(graph: CodeGraph, network: RDN) -> str:
    """RDN from `lr` to sr, its blocks in float or with exact levels."""
    shallow = graph.conv("lr", network.SFENet1)
    x = graph.conv(shallow, network.SFENet2)
    features = []
    for block in network.RDBs:
        with graph.within(block):
            x = BLOCKS[type(block)](graph, block, x)
        features.append(x)
    with graph.within(network.GFF):
        fused = BLOCKS[type(network.GFF)](graph, network.GFF, features)
    return graph.upsample(graph.op("Add", fused, shallow), network.UPNet)


def float_block(graph: Graph, block: DenseBlock, x: str) -> str:
    """The dense block in full precision."""
    dense = x
    for part in block.convs:
        dense = graph.op("Concat", dense, graph.op("Relu", graph.conv(dense, part.conv[0])), axis=1)
    return graph.op("Add", graph.conv(dense, block.LFF), x)


def float_fusion(graph: Graph, block: GlobalFusion, features: Sequence[str]) -> str:
    """The fusion of all block outputs in full precision."""
    return graph.conv(graph.conv(graph.op("Concat", *features, axis=1), block[0]), block[1])


def _growing(block):
    """[(convolution, quantizer of the concatenation with what it gives)] of a quantized dense block."""
    quantizers = [part.act for part in block.convs[1:]] + [block.act2]
    return [(part.conv[0], quantizer) for part, quantizer in zip(block.convs, quantizers, strict=True)]


def exact_block(graph: CodeGraph, block: QuantDenseBlock, x: str) -> str:
    """The quantized dense block: what was concatenated before is brought from level to level."""
    first = dense = graph.activate(block.act1, x)
    for module, quantizer in _growing(block):
        dense = _exact_growth(graph, module, quantizer, dense)
    kept = first if block.skip is None else graph.activate(block.skip, x)
    return graph.op("Add", graph.on_codes(block.LFF, dense), graph.dequantize(kept))


def _exact_growth(graph, conv, quantizer, dense):
    """quantizer(concatenation of dense and relu(conv(dense))), codes to codes."""
    fresh = None
    if quantizer.gated:
        fresh = graph.op("Relu", graph.on_codes(conv, dense))
    grid = graph.grid_of(quantizer, lambda: graph.op("Concat", graph.mean_of(dense), graph.float_mean(fresh), axis=1))
    if fresh is None:
        weight, bias = graph.integers_of(conv)
        positive = replace(grid, low=max(grid.low, grid.zero))
        with graph.within(conv):
            grown = graph.exact_code_conv(dense, weight, bias, positive)
        if grown is None:
            fresh = graph.op("Relu", graph.on_codes(conv, dense))
    with graph.within(quantizer):
        if fresh is not None:
            grown = graph.quantize(fresh, grid, conv.out_channels)
        return graph.record(quantizer, graph.concat([graph.requantize(dense, grid), grown]))


def exact_fusion(graph: CodeGraph, block: QuantGlobalFusion, features: Sequence[str]) -> str:
    """The quantized fusion: the 1x1 convolution in integers, the 3x3 one reads a float feature by the method."""
    channels = block[0].in_channels // len(features)
    grid = graph.grid_of(block.act, lambda: graph.op("Concat", *(graph.float_mean(x) for x in features), axis=1))
    with graph.within(block.act):
        codes = graph.record(block.act, graph.concat([graph.quantize(feature, grid, channels) for feature in features]))
    return graph.on_float(block[1], graph.on_codes(block[0], codes))


def lower_int8(int8: Int8, network: RDN) -> str:
    """RDN from `lr` to sr in integers."""
    graph, fusion, first = int8.graph, network.GFF, network.SFENet1
    layout, grids = int8.sum_layout(network.UPNet[0], fusion[1], first)
    shallow = int8.conv(graph.image(int8.image_grid, first.in_channels), first, grids[1], makes=layout)
    x = int8.conv(shallow, network.SFENet2, int8.grid(network.SFENet2), reads=layout)
    features = []
    for block in network.RDBs:
        with graph.within(block):
            x = int8_block(int8, block, x)
        features.append(x)
    grid = graph.grid_of(fusion.act, lambda: graph.op("Concat", *(graph.mean_of(x) for x in features), axis=1))
    with graph.within(fusion.act):
        codes = int8.with_constant_scale(fusion.act, graph.requantized_concat(features, grid))
    fused = int8.conv(codes, fusion[0], int8.grid(fusion[0]))
    feature = int8.conv_sum(fused, fusion[1], shallow, layout, grids)
    return int8.upsample(feature, [*network.UPNet[:-1]], network.UPNet[-1], layout)


def int8_block(int8: Int8, block: QuantDenseBlock, x: Codes) -> Codes:
    """The quantized dense block."""
    first = dense = int8.activate(block.act1, x)
    for module, quantizer in _growing(block):
        dense = _int8_growth(int8, module, quantizer, dense)
    skip = first if block.skip is None else int8.activate(block.skip, x)
    kept = int8.range_of(skip, block.skip or block.act1)
    with int8.graph.within(block.LFF):
        return int8.graph.conv_add(dense, *int8.integers_of(block.LFF), skip, (int8.calibration.range(block.LFF), kept))


def _int8_growth(int8, conv, quantizer, dense):
    """quantizer(concatenation of dense and relu(conv(dense))), gated ones' levels on a static 8-bit grid.

    On the gate's own grid the next convolution's bias would depend on the runtime scale, and ONNX Runtime's fastest
    kernel takes constants alone: without it 512 channels take 2.5 times as long. A level moves by 1/510 of the range
    at most.
    """
    graph = int8.graph
    if not quantizer.gated:
        grid = graph.grid_of(quantizer)
        grown = int8.conv(dense, conv, replace(grid, low=max(grid.low, grid.zero)))
        with graph.within(quantizer):
            return graph.record(quantizer, graph.requantized_concat([dense, grown], grid))
    grown = int8.conv(dense, conv, int8.grid(conv, positive=True))
    grid = graph.grid_of(quantizer, lambda: graph.op("Concat", graph.mean_of(dense), graph.mean_of(grown), axis=1))
    with graph.within(quantizer):
        levels = [graph.requantize(codes, grid) for codes in (dense, grown)]
        return graph.record(quantizer, graph.requantized_concat(levels, int8.grid(quantizer)))


BLOCKS = {DenseBlock: float_block, GlobalFusion: float_fusion,
          QuantDenseBlock: exact_block, QuantGlobalFusion: exact_fusion}
