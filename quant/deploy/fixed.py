"""Convolutions whose weights are fixed integers, as packed files hold them."""

import torch
from torch import Tensor

from quant.weight import QuantConv2d
from utility import UserError


class FixedConv2d(QuantConv2d):
    """A QuantConv2d whose weight is levels / scale and stays so; it can be run, not trained.

    levels: float32 of the weight's shape, whole numbers. scale: float32 [1].
    """

    scale: Tensor

    def __init__(self, conv: QuantConv2d, levels: Tensor, scale: Tensor) -> None:
        super().__init__(conv, conv.k_bits, conv.weight_quantizer, calibrates_quantized=conv.calibrates_quantized)
        self.phase = conv.phase
        self.register_buffer("scale", scale, persistent=False)
        with torch.no_grad():
            self.weight.copy_(levels / scale)
        self.weight.requires_grad_(False)

    def quantized_weight(self) -> Tensor:
        return self.weight

    def integer_weight(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The levels as they were packed; bounds computed from weights on levels would differ."""
        return torch.round(self.weight * self.scale), self.scale

    def train(self, mode: bool = True) -> "FixedConv2d":
        """Raises UserError for training."""
        if mode:
            raise UserError("a packed file holds whole numbers, no weights to train; train its checkpoint instead")
        return super().train(mode)
