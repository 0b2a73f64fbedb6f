"""Ranges of features on real images: what post-training int8 is calibrated with."""

import contextlib

import torch
from torch import nn

from quant.activation import DualBoundQuantizer

RECORDED = (nn.Conv2d, nn.BatchNorm2d, nn.PReLU, nn.ReLU, DualBoundQuantizer)


@torch.no_grad()
def record_ranges(network, images):
    """(least, largest) output value of every convolution, norm, activation and quantizer, by module.

    network: in evaluation mode. images: float32 [1, n_colors, h, w] each, LR images in 0..rgb_range; any iterable.
    """
    ranges = {}
    with _recording(network, ranges):
        for image in images:
            network(image)
    return ranges


@contextlib.contextmanager
def _recording(network, ranges):
    def record(module, _, output):
        low, high = (value.item() for value in torch.aminmax(output))
        seen = ranges.get(module, (low, high))
        ranges[module] = (min(low, seen[0]), max(high, seen[1]))

    # pooled gates aside, hooks see each module once a forward
    handles = [module.register_forward_hook(record) for module in network.modules() if isinstance(module, RECORDED)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
