"""The methods that DDTB is compared with, in its places of a network. n = 2**k - 1, Q = 2**(k-1) - 1, a is trained:

PAMS     y = round(clip(x, -a, a) * Q / a) * a / Q     dy/da = 1 where x >= a, -1 where x < -a, else 0
PACT     y = round(clip(x, 0, a) * n / a) * a / n      dy/da = 1 where x >= a, else 0
DoReFa   y = round(clip(x, 0, 1) * n) / n
min-max  y = fake_quantize(x, l, u, k)                 l, u: moving averages of min(x, 0) and max(x, 0) of the batches,
                                                       moved a little so that zero is a level

PAMS: Li et al., "PAMS: Quantized Super-Resolution via Parameterized Max Scale", ECCV 2020, arXiv 2011.04212.
PACT: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018, arXiv 1805.06085.
DoReFa: Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients",
2016, arXiv 1606.06160.
min-max, TensorFlow Lite's way: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, arXiv 1712.05877.

What no paper says, because it did not quantize such networks, is said in the class. Weights: quant/weight.py.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model import parallel
from quant.activation import ActivationQuantizer, batch_extremes
from quant.functional import (
    ABSOLUTE_WIDTH_FLOOR,
    concatenated,
    fake_quantize_parts,
    raised_upper,
    scale_and_zero,
)

DECAY = 0.9997  # of PAMS's moving mean
MOMENTUM = 0.99  # of min-max's moving averages


class CalibratedQuantizer(ActivationQuantizer):
    """It starts from the extremes of the calibration batches; without calibration, from those of its first batch."""

    def set_bounds_from(self, lows: Tensor, highs: Tensor) -> None:
        """Set the bounds from the smallest and the largest value of each batch, [batches] each."""
        raise NotImplementedError

    @torch.no_grad()
    def set_bounds(self, x: Tensor) -> None:
        """Set the bounds from one batch, of all processes that share it."""
        self.set_bounds_from(*batch_extremes(x)[:, None])

    @torch.no_grad()
    def end_calibration(self) -> None:
        """Set the bounds from the records, and forget those."""
        if self.observations and not self.bounds_set:
            self.set_bounds_from(*torch.stack(self.observations, 1))
            self.mark_bounds_set()
        super().end_calibration()


class ScaleQuantizer(CalibratedQuantizer):
    """One scale `alpha`, [1]: unsigned features are clipped to [0, alpha], signed ones to [-alpha, alpha].

    Unsigned: 2**k_bits levels, y = round(clip(x)*n/alpha)*alpha/n with n = 2**k_bits - 1. Signed: 2**k_bits - 1 levels
    around zero, with n = 2**(k_bits - 1) - 1. A feature is unsigned that was never negative while calibrating. The
    rounding passes the gradient; beyond the bounds x gets none, and alpha that of the side, where it is `trained`.

    This is PACT. The paper clips what a ReLU made; a feature that can be negative is clipped to [-a, a] here, or it
    would be lost. The paper's start, 10, fits normalised features alone.
    """

    def __init__(self, k_bits: int) -> None:
        super().__init__(k_bits)
        self.signed = nn.Buffer(torch.ones(1))
        self.alpha: Tensor = (nn.Parameter if self.trained else nn.Buffer)(torch.ones(1))

    def set_bounds_from(self, lows: Tensor, highs: Tensor) -> None:
        """alpha becomes the batches' mean largest |x|."""
        self.signed.fill_(float(lows.min() < 0))
        self.alpha.data.copy_(torch.maximum(highs, -lows).mean())

    def static_bounds(self) -> tuple[Tensor, Tensor]:
        alpha = self.alpha.clamp(min=ABSOLUTE_WIDTH_FLOOR)
        return -alpha * self.signed, alpha

    def has_collapsed(self) -> bool:
        """Whether alpha has fallen to 0 or below: the feature is lost, and no gradient brings it back."""
        return bool((self.alpha <= ABSOLUTE_WIDTH_FLOOR).item())

    def quantized(self, *parts: Tensor) -> Tensor:
        signed, unsigned = 2 ** (self.k_bits - 1) - 1, 2**self.k_bits - 1
        levels = unsigned + self.signed * (signed - unsigned)
        lower, upper = self.static_bounds()
        return ClipAndRound.apply(concatenated(parts), lower, upper, levels / upper.detach())


class ClipAndRound(torch.autograd.Function):
    """y = round(clip(x, lower, upper) * scale) / scale; lower, upper, scale: [1]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, lower, upper)
        return torch.clamp(x, lower, upper).mul_(scale).round_().div_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, lower, upper = ctx.saved_tensors
        below, above = x < lower, x >= upper
        grad_x = grad.masked_fill(below | above, 0)
        return grad_x, (grad * below).sum().view(1), (grad * above).sum().view(1), None


class PamsQuantizer(ScaleQuantizer):
    """A symmetric range, whatever the feature; it starts at a moving mean of max|x| over calibration.

    max|x| is the mean of the batch's images' own ones, as in the authors' code, not the batch's largest: at 2 bits all
    that is below half of alpha becomes zero. The moving mean is the paper's, decay 0.9997, corrected for having begun
    at zero.
    """

    def set_bounds(self, x: Tensor) -> None:
        """alpha becomes the images' mean largest |x|, of the whole batch where several processes share it."""
        self._move_alpha(x, 1.0)

    def set_bounds_from(self, lows: Tensor, highs: Tensor) -> None:
        """Nothing: alpha has moved with every batch of calibration, of which these are the extremes alone."""

    def follow_calibration(self, x: Tensor) -> None:
        """Keep alpha at the moving mean of the batches."""
        self._move_alpha(x, (1 - DECAY) / (1 - DECAY ** len(self.observations)))

    @torch.no_grad()
    def _move_alpha(self, x, share):
        """Move alpha towards the images' mean largest |x| by a share of the way, 1 for all of it."""
        self.alpha.lerp_(parallel.all_reduce_mean(x.abs().amax((1, 2, 3)).mean().view(1)), share)


class DoReFaQuantizer(ScaleQuantizer):
    """The paper takes features in 0..1 as given. Here x / alpha is what it quantizes, in -1..1 where x can be negative.

    alpha, the mean of the calibration batches' largest |x|, stays as it is.
    """

    trained = False


class MovingRangeQuantizer(CalibratedQuantizer):
    """The range follows the training batches by momentum 0.99 and stands still in evaluation."""

    trained = False

    def __init__(self, k_bits: int) -> None:
        super().__init__(k_bits)
        self.lower, self.upper = nn.Buffer(torch.zeros(1)), nn.Buffer(torch.zeros(1))

    def set_bounds_from(self, lows: Tensor, highs: Tensor) -> None:
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
        upper = raised_upper(self.lower, self.upper)
        scale, _ = scale_and_zero(self.lower, upper, self.k_bits)
        zero = torch.round(scale * self.lower)
        return zero / scale, (zero + 2**self.k_bits - 1) / scale

    def quantized(self, *parts: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self._move(*batch_extremes(concatenated(parts)))
        return fake_quantize_parts(parts, *self.static_bounds(), self.k_bits)
