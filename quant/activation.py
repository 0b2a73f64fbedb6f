"""The activation quantizer with dual trainable bounds and, where chosen, a dynamic gate (spec, section 4)."""

import torch
from torch import nn

from model import parallel
from quant.functional import concatenated, extremes, fake_quantize_parts, keep_apart, percentiles
from quant.gate import Gate
from quant.phase import Phase, Phased

START_BOUND = 10.0


class DualBoundQuantizer(nn.Module, Phased):
    """Quantize a feature [N, channels, h, w] to 2**k_bits levels between two trainable bounds.

    It is called with the feature, or with parts of it that are to be concatenated over channels. Its arithmetic and its
    result are float32, also where a feature comes in 16 bit: the levels are those of the same values in float32.

    percentile: M of the spec; on the first training forward the bounds become the M-th and (100-M)-th percentile of the
    whole batch. init_bounds: 'percentile', or 'released', which does so at 2 bits alone and else starts from +-10.

    `dynamic` (a bool that mirrors the buffer `is_dynamic`, so that no forward waits for the device): the bounds are
    multiplied by the gate's beta, per sample. `logits` keeps the gate's last output for the regulariser.
    `observations`: [max, min] of every feature seen while calibrating and observing, a tensor [2] each.
    """

    def __init__(self, channels, k_bits, *, percentile, init_bounds="percentile"):
        super().__init__()
        self.k_bits = k_bits
        self.percentile = percentile
        self.starts_from_data = init_bounds == "percentile" or k_bits == 2
        self.alpha_upper = nn.Parameter(torch.tensor([START_BOUND]))
        self.alpha_lower = nn.Parameter(torch.tensor([-START_BOUND]))
        self.register_buffer("max_val", torch.zeros(1))
        self.register_buffer("min_val", torch.zeros(1))
        self.register_buffer("is_dynamic", torch.zeros(1))
        self.register_buffer("initialised", torch.tensor([not self.starts_from_data]))
        self.gate = Gate(channels)
        self.observations = []
        self._observing = False
        self.logits = None
        self.read_flags()
        self.register_load_state_dict_post_hook(lambda module, _: module.read_flags())

    def read_flags(self):
        """Mirror the buffers `is_dynamic` and `initialised` in Python; to be called when they were changed."""
        self.dynamic = bool(self.is_dynamic.item())
        self._started = bool(self.initialised.item())

    def set_dynamic(self, dynamic):
        """Say whether the gate belongs to this quantizer."""
        self.is_dynamic.fill_(float(dynamic))
        self.dynamic = bool(dynamic)

    @torch.no_grad()
    def start_bounds(self, x):
        """Set both bounds from the percentiles of x, of the whole batch where several processes share it."""
        x = parallel.gathered(x)
        high, low = percentiles(x, self.percentile, 100 - self.percentile)
        self.alpha_upper.copy_(high)
        self.alpha_lower.copy_(low)
        self.initialised.fill_(True)
        self._started = True

    def bounds(self, *parts):
        """(lower, upper): [1] each, or [N, 1, 1, 1] where a gate is applied. Runs the gate where it is due."""
        gated = self.dynamic and (self.training or self.phase is Phase.DYNAMIC)
        self.logits = self.gate(*parts) if gated else None
        if self.logits is None or self.phase is Phase.STATIC:
            return self.alpha_lower, self.alpha_upper
        beta = 2 * torch.sigmoid(self.logits)
        return beta[:, 1:] * self.alpha_lower, beta[:, :1] * self.alpha_upper

    def forward(self, *parts):
        parts = [part.to(self.alpha_upper.dtype) for part in parts]  # 16 bit under autocast: levels would be wrong
        if self.phase is Phase.CALIBRATE:
            return self._calibrate(concatenated(parts))
        if self.training and not self._started:
            self.start_bounds(concatenated(parts))
        return fake_quantize_parts(parts, *self.bounds(*parts), self.k_bits)

    def observe(self, observing):
        """Start or stop recording; only calibration records."""
        self._observing = observing

    def _calibrate(self, x):
        if self._observing:
            low, high = extremes(x)
            self.observations.append(torch.stack((high, low)))
            self.max_val.copy_(high)
            self.min_val.copy_(low)
        return x

    def extra_repr(self):
        return f"k_bits={self.k_bits}, percentile={self.percentile}, dynamic={self.dynamic}"


def quantizers(network):
    """Name and module of every activation quantizer, in the network's order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, DualBoundQuantizer)}


def collapsed(network):
    """Names of the quantizers whose bounds have crossed or nearly met, so that the width floor holds them apart.

    Waits for the device once per quantizer: for logs, not for steps.
    """
    return [name for name, quantizer in quantizers(network).items()
            if not torch.equal(keep_apart(quantizer.alpha_lower, quantizer.alpha_upper), quantizer.alpha_upper)]
