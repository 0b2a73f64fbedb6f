"""The three networks around their blocks, in float32, and the blocks of full-precision networks.

A network is lowered by walking it as its `forward` does; a block by the function that `blocks` holds for its class, so
that full-precision and quantized networks share everything but their blocks.
"""

import numpy as np

from model.edsr import EDSR, ResBlock
from model.rdn import RDN, DenseBlock, GlobalFusion
from model.srresnet import BNResBlock, SRResNet
from quant.deploy.lowering.convs import float_conv


def array(tensor):
    """A tensor's values as NumPy, or None for None."""
    return None if tensor is None else tensor.detach().cpu().numpy()


def conv(graph, x, module):
    """A torch convolution."""
    with graph.within(module):
        return float_conv(graph, x, array(module.weight), array(module.bias))


def norm_factors(norm):
    """Batch norm by running statistics as (factor, offset), float64 [C] each."""
    factor = array(norm.weight).astype(np.float64) / np.sqrt(array(norm.running_var).astype(np.float64) + norm.eps)
    return factor, array(norm.bias) - array(norm.running_mean) * factor


def prelu(graph, x, module):
    """PReLU; one slope for all channels, or one a channel."""
    return graph.op("PRelu", x, graph.constant(array(module.weight).reshape(-1, 1, 1)))


def upsample(graph, x, modules):
    """Convolutions, pixel shuffles and PReLUs in a row."""
    for module in modules:
        name = type(module).__name__
        if name == "PixelShuffle":
            x = graph.op("DepthToSpace", x, blocksize=module.upscale_factor, mode="CRD")
        else:
            x = prelu(graph, x, module) if name == "PReLU" else conv(graph, x, module)
    return x


def edsr(graph, network, blocks):
    """EDSR from `lr` to sr."""
    head = conv(graph, shift(graph, "lr", network.sub_mean), network.head[0])
    x = head
    for block in network.body[:-1]:
        with graph.within(block):
            x = blocks[type(block)](graph, block, x)
    feature = graph.op("Add", conv(graph, x, network.body[-1]), head)
    return shift(graph, upsample(graph, feature, [*network.tail[0], network.tail[1]]), network.add_mean)


def shift(graph, image, module):
    """A MeanShift, whose 1x1 convolution is an addition."""
    return graph.op("Add", image, graph.constant(array(module.bias).reshape(-1, 1, 1)))


def rdn(graph, network, blocks):
    """RDN from `lr` to sr."""
    shallow = conv(graph, "lr", network.SFENet1)
    x = conv(graph, shallow, network.SFENet2)
    features = []
    for block in network.RDBs:
        with graph.within(block):
            x = blocks[type(block)](graph, block, x)
        features.append(x)
    with graph.within(network.GFF):
        fused = blocks[type(network.GFF)](graph, network.GFF, features)
    return upsample(graph, graph.op("Add", fused, shallow), network.UPNet)


def srresnet(graph, network, blocks):
    """SRResNet from `lr` to sr."""
    head = prelu(graph, conv(graph, "lr", network.conv_input), network.relu)
    x = head
    for block in network.residual:
        with graph.within(block):
            x = blocks[type(block)](graph, block, x)
    feature = graph.op("Add", folded_conv(graph, x, network.conv_mid, network.bn_mid), head)
    return upsample(graph, feature, [*network.upscale, network.conv_output])


def folded_conv(graph, x, module, norm):
    """A convolution with the batch norm behind it folded in."""
    factor, offset = norm_factors(norm)
    bias = offset if module.bias is None else offset + array(module.bias) * factor
    with graph.within(module):
        return float_conv(graph, x, array(module.weight) * factor[:, None, None, None], bias)


def res_block(graph, block, x):
    """EDSR's block."""
    residual = conv(graph, graph.op("Relu", conv(graph, x, block.body[0])), block.body[2])
    if block.res_scale != 1:
        residual = graph.op("Mul", residual, graph.constant(block.res_scale, np.float32))
    return graph.op("Add", x, residual)


def bn_res_block(graph, block, x):
    """SRResNet's block."""
    hidden = prelu(graph, folded_conv(graph, x, block.conv1, block.in1), block.relu)
    return graph.op("Add", folded_conv(graph, hidden, block.conv2, block.in2), x)


def dense_block(graph, block, x):
    """RDN's block."""
    dense = x
    for part in block.convs:
        dense = graph.op("Concat", dense, graph.op("Relu", conv(graph, dense, part.conv[0])), axis=1)
    return graph.op("Add", conv(graph, dense, block.LFF), x)


def global_fusion(graph, block, features):
    """RDN's fusion of all block outputs."""
    return conv(graph, conv(graph, graph.op("Concat", *features, axis=1), block[0]), block[1])


NETWORKS = {EDSR: edsr, RDN: rdn, SRResNet: srresnet}
FLOAT_BLOCKS = {ResBlock: res_block, BNResBlock: bn_res_block, DenseBlock: dense_block, GlobalFusion: global_fusion}
