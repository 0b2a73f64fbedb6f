"""What the compared quantizers share: bounds that start from calibration, and clip-and-round with one scale."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quant.activation import ActivationQuantizer, batch_extremes
from quant.functional import ABSOLUTE_WIDTH_FLOOR, concatenated


class CalibratedQuantizer(ActivationQuantizer):
    """It starts from the extremes of the calibration batches; without calibration, from those of its first batch."""

    def start(self, lows: Tensor, highs: Tensor) -> None:
        """Set the bounds from the smallest and the largest value of each batch, [batches] each."""
        raise NotImplementedError

    @torch.no_grad()
    def start_bounds(self, x: Tensor) -> None:
        """Set the bounds from one batch, of all processes that share it."""
        self._start(batch_extremes(x)[None])

    @torch.no_grad()
    def end_calibration(self) -> None:
        """Set the bounds from the records, and forget those."""
        if self.observations and not self._started:
            self._start(torch.stack(self.observations))
        super().end_calibration()

    def _start(self, observed):
        self.start(*observed.unbind(1))
        self.mark_started()


class ScaleQuantizer(CalibratedQuantizer):
    """One scale `alpha`, [1]: unsigned features are clipped to [0, alpha], signed ones to [-alpha, alpha].

    Unsigned: 2**k_bits levels, y = round(clip(x)*n/alpha)*alpha/n with n = 2**k_bits - 1. Signed: 2**k_bits - 1 levels
    around zero, with n = 2**(k_bits - 1) - 1. Where `always_signed` is not set the data say which: a feature is
    unsigned that was never negative while calibrating. The rounding passes the gradient; beyond the bounds x gets none,
    and alpha that of the side, where it is `trained`.
    """

    always_signed = False
    trained = True

    def __init__(self, k_bits: int) -> None:
        super().__init__(k_bits)
        self.signed = nn.Buffer(torch.ones(1))
        self.alpha: Tensor = (nn.Parameter if self.trained else nn.Buffer)(torch.ones(1))

    def start(self, lows: Tensor, highs: Tensor) -> None:
        """alpha becomes the batches' mean largest |x|."""
        self.signed.fill_(1.0 if self.always_signed else float(lows.min() < 0))
        self.alpha.data.copy_(torch.maximum(highs, -lows).mean())

    def static_bounds(self) -> tuple[Tensor, Tensor]:
        alpha = self.alpha.clamp(min=ABSOLUTE_WIDTH_FLOOR)
        return -alpha * self.signed, alpha

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
