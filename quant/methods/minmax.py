"""Min-max with moving averages, TensorFlow Lite's way (Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", CVPR 2018, arXiv 1712.05877).

    l, u = moving averages of min(x, 0) and max(x, 0) over the batches,   y = fake_quantize(x, l, u, k)

where l and u are moved a little so that zero is a level. Nothing is trained. Weights: 2**k levels from min w to max w.
"""

import torch
from torch import Tensor, nn

from quant.activation import batch_extremes
from quant.functional import concatenated, fake_quantize_parts, scale_and_zero, with_minimal_width
from quant.methods.clipped import CalibratedQuantizer

MOMENTUM = 0.99


class MovingRangeQuantizer(CalibratedQuantizer):
    """The range follows the training batches by momentum 0.99 and stands still in evaluation."""

    def __init__(self, k_bits: int) -> None:
        super().__init__(k_bits)
        self.lower, self.upper = nn.Buffer(torch.zeros(1)), nn.Buffer(torch.zeros(1))

    def start(self, lows: Tensor, highs: Tensor) -> None:
        """The range becomes the moving averages of the calibration batches."""
        self.upper.copy_(highs[0].clamp(min=0))
        self.lower.copy_(lows[0].clamp(max=0))
        for low, high in zip(lows[1:], highs[1:], strict=True):
            self._move(low, high)

    def _move(self, low, high):
        self.upper.lerp_(high.clamp(min=0).view(1), 1 - MOMENTUM)
        self.lower.lerp_(low.clamp(max=0).view(1), 1 - MOMENTUM)

    def static_bounds(self) -> tuple[Tensor, Tensor]:
        """(lower, upper), the range moved by less than half a step so that zero is a level."""
        upper = with_minimal_width(self.lower, self.upper)
        scale, _ = scale_and_zero(self.lower, upper, self.k_bits)
        zero = torch.round(scale * self.lower)
        return zero / scale, (zero + 2**self.k_bits - 1) / scale

    def quantized(self, *parts: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self._move(*batch_extremes(concatenated(parts)))
        return fake_quantize_parts(parts, *self.static_bounds(), self.k_bits)
