"""DDTB: dual trainable bounds and, where chosen, a dynamic gate (Zhong et al., "Dynamic Dual Trainable Bounds for
Ultra-low Precision Super-Resolution Networks", ECCV 2022, arXiv 2203.03844). quant/README.md has the equations.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import parallel
from model.common import full_precision
from model.tiles import GlobalMean
from quant.activation import ActivationQuantizer
from quant.functional import fake_quantize, fake_quantize_parts, percentiles
from quant.phase import Phase
from quant.weight import quantize_symmetric

START_BOUND = 10.0
GATE_BITS = 2
GATE_CHANNELS = 32


class DualBoundQuantizer(ActivationQuantizer):
    """2**k_bits levels between two trainable bounds, which a gate may move for each image.

    percentile: M; the first training forward sets the bounds to the M-th and (100-M)-th percentile of the whole batch.
    init_bounds: 'percentile'; or 'released', which does so at 2 bits alone and starts from +-10 elsewhere; or
    'calibrated', the mean of the calibration batches' percentiles, where no feature is quantized.
    symmetric: an ablation, one trainable bound a for both sides, which starts at the M-th percentile of |x|. The levels
    are 2a/(2**k_bits - 1) apart, from 1 - 2**(k_bits-1) to 2**(k_bits-1): between -a and a there would be one too many,
    or one too few, as s*a lies halfway between two whole numbers.

    `dynamic` (a bool that mirrors the buffer `is_dynamic`, so that no forward waits for the device): the gate is
    chosen. It trains in phase STATIC; in DYNAMIC it is applied: its beta, per sample, multiplies the bounds. `logits`
    keeps the gate's last output for the regulariser.
    """

    def __init__(self, channels: int, k_bits: int, *, percentile: float, init_bounds: str = "percentile",
                 symmetric: bool = False) -> None:
        super().__init__(k_bits, bounds_set=init_bounds == "released" and k_bits != 2)
        self.bounds_from_calibration = init_bounds == "calibrated"
        self.percentile = percentile
        self.symmetric = symmetric
        self.alpha_upper = nn.Parameter(torch.tensor([START_BOUND]))
        if not symmetric:
            self.alpha_lower = nn.Parameter(torch.tensor([-START_BOUND]))
        self.is_dynamic = nn.Buffer(torch.zeros(1))
        self.gate = Gate(channels)

    @classmethod
    def for_feature(cls, channels: int, k_bits: int, *, percentile: float, **settings: str) -> "DualBoundQuantizer":
        return cls(channels, k_bits, percentile=percentile, init_bounds=settings["init_bounds"],
                   symmetric=settings["bounds"] == "symmetric")

    def read_flags(self, *_: object) -> None:
        """Mirror the buffers `is_dynamic` and `initialised` in Python; to be called when they were changed."""
        super().read_flags()
        self.dynamic = bool(self.is_dynamic.item())

    def set_dynamic(self, dynamic: bool) -> None:
        self.is_dynamic.fill_(float(dynamic))
        self.dynamic = bool(dynamic)

    def set_bounds(self, x: Tensor) -> None:
        """Set both bounds from the percentiles of x, of the whole batch where several processes share it."""
        self._move_bounds(x, 1.0)

    def end_calibration(self) -> None:
        """Bounds that calibration has set stay."""
        if self.bounds_from_calibration and self.observations:
            self.mark_bounds_set()
        super().end_calibration()

    def follow_calibration(self, x: Tensor) -> None:
        """Keep the bounds at the mean of the batches' percentiles, where they start from calibration."""
        if self.bounds_from_calibration:
            self._move_bounds(x, 1 / len(self.observations))

    @torch.no_grad()
    def _move_bounds(self, x, share):
        """Move the bounds towards the percentiles of x by a share of the way, 1 for all of it."""
        x = parallel.all_gather(x)
        if self.symmetric:
            self.alpha_upper.lerp_(percentiles(x.abs(), self.percentile)[0], share)
        else:
            high, low = percentiles(x, self.percentile, 100 - self.percentile)
            self.alpha_upper.lerp_(high, share)
            self.alpha_lower.lerp_(low, share)

    def static_bounds(self) -> tuple[Tensor, Tensor]:
        """(lower, upper) before any gate, [1] each."""
        if not self.symmetric:
            return self.alpha_lower, self.alpha_upper
        step = self.alpha_upper / (2 ** (self.k_bits - 1) - 0.5)
        return step * (1 - 2 ** (self.k_bits - 1)), step * 2 ** (self.k_bits - 1)

    def bounds(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """(lower, upper): [1] each, or [N, 1, 1, 1] where a gate is applied. Runs the gate where it is due."""
        gate_runs = self.dynamic and (self.training or self.phase is Phase.DYNAMIC)
        logits = self.logits = self.gate(*parts) if gate_runs else None  # another thread may overwrite self.logits
        lower, upper = self.static_bounds()
        if logits is None or self.phase is Phase.STATIC:
            return lower, upper
        beta = 2 * torch.sigmoid(logits)
        return beta[:, 1:] * lower, beta[:, :1] * upper

    def quantized(self, *parts: Tensor) -> Tensor:
        lower, upper = self.bounds(*parts)
        return fake_quantize_parts(parts, lower, upper, self.k_bits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, percentile={self.percentile}, dynamic={self.dynamic}"


class Gate(nn.Module):
    """A feature [N, C, h, w] to logits [N, 2, 1, 1], for the upper and the lower bound; beta = 2*sigmoid(logits).

    The feature comes in parts that would be concatenated over channels, or whole as the only part.
    Only `expand` learns: its input is quantized without a gradient. The batch norm's running statistics move in
    training; a training batch of one sample is normalised by them, since it has no statistics of its own. Where several
    processes share a training batch, they exchange the pooled channels, a few numbers, and each process computes the
    gate for the whole batch: extremes and statistics are then those of the whole batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = GlobalMean()
        self.reduce = nn.Conv2d(channels, GATE_CHANNELS, 1, bias=False)
        self.norm = nn.BatchNorm2d(GATE_CHANNELS)
        self.expand = nn.Conv2d(GATE_CHANNELS, 2, 1, bias=False)

    def forward(self, *parts: Tensor) -> Tensor:
        with full_precision(parts[0].device):  # the bounds stay float32, at next to no cost
            with torch.no_grad():
                pooled = self.pool(*parts).to(self.reduce.weight.dtype)
                whole = self._quantize(parallel.all_gather(pooled) if self.training else pooled)
                hidden = F.conv2d(whole, quantize_symmetric(self.reduce.weight, GATE_BITS))
                hidden = self._quantize(F.relu(self._normalise(hidden)))
            own = parallel.own_slice(hidden) if self.training else hidden
            return F.conv2d(own, quantize_symmetric(self.expand.weight, GATE_BITS))

    def _normalise(self, hidden):
        if self.training and len(hidden) == 1:
            norm = self.norm
            return F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return self.norm(hidden)

    def _quantize(self, x):
        """2-bit levels between min and max: those of the batch in training, of each image in evaluation."""
        if not self.training:
            return fake_quantize(x, x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True), GATE_BITS)
        return fake_quantize(x, x.amin().view(1), x.amax().view(1), GATE_BITS)
