"""Weights that are whole numbers for good, as packed files hold them."""

import torch

from quant.functional import integer_levels
from quant.weight import QuantConv2d, minmax_bounds, percentile_bounds
from utility import UserError

WEIGHT_BOUNDS = {"percentile": percentile_bounds, "minmax": minmax_bounds}


class FixedConv2d(QuantConv2d):
    """A QuantConv2d whose weight is levels / scale and stays so; it can be run, not trained.

    levels: float32 of the weight's shape, whole numbers. scale: float32 [1].
    """

    def __init__(self, conv, levels, scale):
        super().__init__(conv, conv.k_bits, conv.weight_quantizer, calibrates_quantized=conv.calibrates_quantized)
        self.phase = conv.phase
        self.scale = scale
        with torch.no_grad():
            self.weight.copy_(levels / scale)
        self.weight.requires_grad_(False)

    def quantized_weight(self):
        return self.weight

    def train(self, mode=True):
        """Raises UserError for training."""
        if mode:
            raise UserError("a packed file holds whole numbers, no weights to train; train its checkpoint instead")
        return super().train(mode)


def integer_weight(conv):
    """(levels, scale) of a QuantConv2d: its quantized weight is levels / scale, bit for bit.

    levels: float32 [O, I, kh, kw], whole numbers; scale: float32 [1].
    """
    weight = conv.weight.detach()
    if isinstance(conv, FixedConv2d):
        return torch.round(weight * conv.scale), conv.scale
    return integer_levels(weight, *WEIGHT_BOUNDS[conv.weight_quantizer](weight), conv.k_bits)
