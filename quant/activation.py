"""The activation quantizer of DDTB: dual trainable bounds and, where chosen, a dynamic gate (spec, section 4)."""

import torch
from torch import nn

from model import parallel
from quant.functional import (
    check_bits,
    concatenated,
    concatenated_with_extremes,
    fake_quantize_parts,
    keep_apart,
    percentiles,
)
from quant.gate import Gate
from quant.phase import Phase, Phased

START_BOUND = 10.0


class ActivationQuantizer(nn.Module, Phased):
    """What every activation quantizer has in common; a feature is [N, channels, h, w], or parts of it over channels.

    Arithmetic and result are float32, also where a feature comes in 16 bit: the levels are those of the same values in
    float32. While calibrating features pass as they are; `observations` are then [min, max] of every one seen while
    observing, a tensor [2] each. The bounds start in the first training forward, or when calibration ends.

    A subclass says `static_bounds`, `quantized` and `start_bounds`. `gate` is None where there is none.
    """

    dynamic = False
    logits = None

    def __init__(self, k_bits, *, initialised=False):
        super().__init__()
        check_bits(k_bits)
        self.k_bits = k_bits
        self.gate = None
        self.register_buffer("max_val", torch.zeros(1))
        self.register_buffer("min_val", torch.zeros(1))
        self.register_buffer("initialised", torch.tensor([initialised]))
        self.observations = []
        self._observing = False
        self._started = initialised
        self.register_load_state_dict_post_hook(_read_flags)

    def __getstate__(self):
        """Without the gate's last output: it holds the graph of a forward, which can't be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "logits"}

    def read_flags(self):
        """Mirror the buffer `initialised` in Python, where no forward waits for it; call it when it was changed."""
        self._started = bool(self.initialised.item())

    def static_bounds(self):
        """(lower, upper) as they are kept, [1] each."""
        raise NotImplementedError

    def bounds(self, *parts):
        """(lower, upper) for a feature, [1] each, or [N, 1, 1, 1] where they are each image's own."""
        return self.static_bounds()

    def quantized(self, *parts):
        """The feature on its levels, float32 [N, channels, h, w]."""
        raise NotImplementedError

    def start_bounds(self, x):
        """Set the bounds from x, a training batch [N, channels, h, w]."""
        raise NotImplementedError

    def end_calibration(self):
        """Calibration is over: the records have done their work, the last is kept as the release keeps it."""
        if self.observations:
            self.min_val[0], self.max_val[0] = self.observations[-1]
        self.observations.clear()

    def mark_started(self):
        """The bounds are set; no later batch sets them."""
        self.initialised.fill_(True)
        self._started = True

    def forward(self, *parts):
        dtype = self.max_val.dtype
        # 16 bit under autocast: levels would be wrong
        parts = [part if part.dtype is dtype else part.to(dtype) for part in parts]
        if self.phase is Phase.CALIBRATE:
            return self._calibrate(parts)
        if self.training and not self._started:
            self.start_bounds(concatenated(parts))
        return self.quantized(*parts)

    def observe(self, observing):
        """Start or stop recording; only calibration records."""
        self._observing = observing

    def _calibrate(self, parts):
        if not self._observing:
            return concatenated(parts)
        x, extremes = concatenated_with_extremes(parts)
        self.observations.append(extremes)
        return x

    def extra_repr(self):
        return f"k_bits={self.k_bits}"


def _read_flags(quantizer, _):
    quantizer.read_flags()


class DualBoundQuantizer(ActivationQuantizer):
    """DDTB: 2**k_bits levels between two trainable bounds.

    percentile: M of the spec; on the first training forward the bounds become the M-th and (100-M)-th percentile of the
    whole batch. init_bounds: 'percentile'; or 'released', which does so at 2 bits alone and else starts from +-10; or
    'calibrated', the mean of the calibration batches' percentiles: those of a feature that nothing before it quantized.
    symmetric: an ablation, one trainable bound for both sides, which starts at the M-th percentile of |x|.

    `dynamic` (a bool that mirrors the buffer `is_dynamic`, so that no forward waits for the device): the bounds are
    multiplied by the gate's beta, per sample. `logits` keeps the gate's last output for the regulariser.
    """

    def __init__(self, channels, k_bits, *, percentile, init_bounds="percentile", symmetric=False):
        super().__init__(k_bits, initialised=init_bounds == "released" and k_bits != 2)
        self.starts_calibrated = init_bounds == "calibrated"
        self.percentile = percentile
        self.symmetric = symmetric
        self.alpha_upper = nn.Parameter(torch.tensor([START_BOUND]))
        if not symmetric:
            self.alpha_lower = nn.Parameter(torch.tensor([-START_BOUND]))
        self.register_buffer("is_dynamic", torch.zeros(1))
        self.gate = Gate(channels)

    def read_flags(self):
        """Mirror the buffers `is_dynamic` and `initialised` in Python; to be called when they were changed."""
        super().read_flags()
        self.dynamic = bool(self.is_dynamic.item())

    def set_dynamic(self, dynamic):
        """Say whether the gate belongs to this quantizer."""
        self.is_dynamic.fill_(float(dynamic))
        self.dynamic = bool(dynamic)

    def start_bounds(self, x):
        """Set both bounds from the percentiles of x, of the whole batch where several processes share it."""
        self._move_bounds(x, 1.0)
        self.mark_started()

    def end_calibration(self):
        """Bounds that calibration has set stay."""
        if self.starts_calibrated and self.observations:
            self.mark_started()
        super().end_calibration()

    def _calibrate(self, parts):
        x = super()._calibrate(parts)
        if self.starts_calibrated and self._observing:
            self._move_bounds(x, 1 / len(self.observations))
        return x

    @torch.no_grad()
    def _move_bounds(self, x, share):
        """Move the bounds towards the percentiles of x by a share of the way, 1 for all of it."""
        x = parallel.gathered(x)
        if self.symmetric:
            self.alpha_upper.lerp_(percentiles(x.abs(), self.percentile)[0], share)
        else:
            high, low = percentiles(x, self.percentile, 100 - self.percentile)
            self.alpha_upper.lerp_(high, share)
            self.alpha_lower.lerp_(low, share)

    def static_bounds(self):
        """(lower, upper) before any gate, [1] each."""
        return -self.alpha_upper if self.symmetric else self.alpha_lower, self.alpha_upper

    def bounds(self, *parts):
        """(lower, upper): [1] each, or [N, 1, 1, 1] where a gate is applied. Runs the gate where it is due."""
        gated = self.dynamic and (self.training or self.phase is Phase.DYNAMIC)
        self.logits = self.gate(*parts) if gated else None
        lower, upper = self.static_bounds()
        if self.logits is None or self.phase is Phase.STATIC:
            return lower, upper
        beta = 2 * torch.sigmoid(self.logits)
        return beta[:, 1:] * lower, beta[:, :1] * upper

    def quantized(self, *parts):
        lower, upper = self.bounds(*parts)
        return fake_quantize_parts(parts, lower, upper, self.k_bits)

    def extra_repr(self):
        return f"{super().extra_repr()}, percentile={self.percentile}, dynamic={self.dynamic}"


def quantizers(network):
    """Name and module of every activation quantizer, in the network's order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, ActivationQuantizer)}


def gated_quantizers(network):
    """Those of `quantizers` that have a gate and can become dynamic."""
    return {name: quantizer for name, quantizer in quantizers(network).items() if quantizer.gate is not None}


def collapsed(network):
    """Names of the quantizers whose bounds have crossed or nearly met, so that the width floor holds them apart.

    Waits for the device once per quantizer: for logs, not for steps.
    """
    met = []
    for name, quantizer in quantizers(network).items():
        lower, upper = quantizer.static_bounds()
        if not torch.equal(keep_apart(lower, upper), upper):
            met.append(name)
    return met
