"""Weight quantizers (quant/README.md, "Weights") and the convolution that uses one."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from model.common import KEPT
from quant.functional import check_bits, extremes, fake_quantize, integer_levels, percentiles, recomputed
from quant.phase import Phase, Phased
from utility import UserError

WEIGHT_PERCENTILE = 99
GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def percentile_bounds(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(1st, 99th percentile) of a weight tensor, [1] each."""
    low, high = percentiles(weight, 100 - WEIGHT_PERCENTILE, WEIGHT_PERCENTILE)
    return low.view(1), high.view(1)


def minmax_bounds(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(min, max) of a weight tensor, [1] each."""
    low, high = extremes(weight)
    return low.view(1), high.view(1)


def quantize_percentile(weight: Tensor, k_bits: int) -> Tensor:
    """Weights on 2**k_bits levels between their 1st and 99th percentile; what lies outside has no gradient."""
    return fake_quantize(weight, *percentile_bounds(weight), k_bits)


def quantize_minmax(weight: Tensor, k_bits: int) -> Tensor:
    """Weights on 2**k_bits levels between their minimum and maximum; the gradient passes unchanged."""
    with torch.no_grad():
        quantized = fake_quantize(weight, *minmax_bounds(weight), k_bits)
    return _PassGradient.apply(weight, quantized)


def quantize_symmetric(weight: Tensor, k_bits: int) -> Tensor:
    """Weights on 2**k_bits - 1 levels around zero, y = round(w*Q/a)*a/Q with a = max|w| + 1e-8."""
    check_bits(k_bits)
    with torch.no_grad():
        largest = 2 ** (k_bits - 1) - 1
        bound = weight.abs().max() + 1e-8
        quantized = torch.round(weight * largest / bound) * bound / largest
    return _PassGradient.apply(weight, quantized)


def quantize_dorefa(weight: Tensor, k_bits: int) -> Tensor:
    """Weights on 2**k_bits levels, spaced evenly after a tanh; the tanh takes part in the gradient.

    DoReFa-Net's y = 2*round(n*w')/n - 1 with w' = tanh(w)/(2t) + 1/2, t = max|tanh(w)| and n = 2**k_bits - 1, times t:
    super-resolution's convolutions have no normalisation behind them to make up for a change of scale.
    """
    check_bits(k_bits)
    n = 2**k_bits - 1
    squeezed = torch.tanh(weight)
    with torch.no_grad():
        largest = squeezed.abs().max().clamp(min=torch.finfo(weight.dtype).tiny)
        quantized = (2 * torch.round(n * (squeezed / (2 * largest) + 0.5)) / n - 1) * largest
    return _PassGradient.apply(squeezed, quantized)


class _PassGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, quantized: Tensor) -> Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


WEIGHT_QUANTIZERS = {"percentile": quantize_percentile, "minmax": quantize_minmax, "symmetric": quantize_symmetric,
                     "dorefa": quantize_dorefa}
# those that DDTB trains with, and whose levels are whole numbers of one step
WEIGHT_BOUNDS = {"percentile": percentile_bounds, "minmax": minmax_bounds}


class QuantConv2d(nn.Conv2d, Phased):
    """A convolution whose weight is quantized in every forward, while calibrating only if so asked; the bias is not.

    It takes over the Parameters of `conv`. Within `model.common.constant_weights` the weight is quantized once.
    keeps_operands: whether quantized inputs and weights stay in memory for backward, which else recomputes them.
    fixed_scale: [1] where the weight is that of a packed file: whole numbers / fixed_scale, run as it is, not trained.
    """

    fixed_scale: Tensor | None

    def __init__(self, conv: nn.Conv2d, k_bits: int, weight_quantizer: str, *, calibrates_quantized: bool = False,
                 keeps_operands: bool = False) -> None:
        if not isinstance(conv.weight, nn.Parameter):
            raise ValueError("a weight is made of others, as by weight norm or pruning; make it a Parameter first, as "
                             "torch.nn.utils.parametrize.remove_parametrizations does")
        if type(conv) is not nn.Conv2d:
            raise ValueError(f"{type(conv).__name__}: has no quantized form, only nn.Conv2d itself has; what another "
                             "class adds would be lost")
        same: dict[str, Any] = {name: getattr(conv, name) for name in GEOMETRY}
        super().__init__(**same, bias=conv.bias is not None, device="meta")
        self.weight = conv.weight
        self.bias = conv.bias
        self.k_bits = k_bits
        self.weight_quantizer = weight_quantizer
        self.calibrates_quantized = calibrates_quantized
        self.keeps_operands = keeps_operands
        self.register_buffer("fixed_scale", None)
        self.train(conv.training)

    def quantized_weight(self) -> Tensor:
        """The weight on its levels; shape and device of the weight."""
        if self.fixed_scale is not None:
            return self.weight
        quantize = WEIGHT_QUANTIZERS[self.weight_quantizer]
        if self.training or torch.is_grad_enabled() or (kept := KEPT.get()) is None:
            return quantize(self.weight, self.k_bits)
        if self not in kept:
            kept[self] = quantize(self.weight, self.k_bits)
        return kept[self]

    def integer_weight(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(levels, scale): the quantized weight is levels / scale, bit for bit. The one source for packing and export.

        levels: float32 in the weight's shape, whole numbers; scale: float32 [1]. KeyError for a quantizer that is there
        for comparison.
        """
        weight = self.weight.detach()
        if self.fixed_scale is not None:  # bounds computed from weights on levels would differ
            return torch.round(weight * self.fixed_scale), self.fixed_scale
        return integer_levels(weight, *WEIGHT_BOUNDS[self.weight_quantizer](weight), self.k_bits)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        """Refuses, also where strict is False, weights that are no levels, and would be run as if they were."""
        given = {name for name in ("weight", "fixed_scale") if prefix + name in state_dict}
        if self.fixed_scale is not None and given == {"weight"}:
            errors.append(f"{prefix}weight: a packed file's network takes no other weights; open those by open_network")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def train(self, mode: bool = True) -> "QuantConv2d":
        """Raises UserError for the training of a packed file's weight."""
        if mode and self.fixed_scale is not None:
            raise UserError("a packed file holds whole numbers, no weights to train; give the file to --refine, or to "
                            "quant.open.load_weights, which makes floats of them")
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.phase is Phase.CALIBRATE and not self.calibrates_quantized:
            return super().forward(x)
        weight = self.quantized_weight()
        with contextlib.nullcontext() if self.keeps_operands else recomputed(x, weight):
            return self._conv_forward(x, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k_bits={self.k_bits}, weight_quantizer={self.weight_quantizer}"
