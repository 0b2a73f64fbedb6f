"""What every activation quantizer has in common; each method's own lies in quant/methods."""

import contextlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from model import parallel
from quant.functional import check_bits, concatenated, extremes, raised_upper
from quant.phase import Phase, Phased

NO_RESULT = "bounds are not set yet, so this network's output means nothing; the first training forward sets them"


class ActivationQuantizer(nn.Module, Phased):
    """The base class: calibration, when the bounds are set, float32. A feature is [N, channels, h, w], or parts of it.

    Features that come in 16 bit, as under autocast, are made float32 first, and the result is float32; in a network
    that was cast as a whole both have its dtype. During calibration features pass unchanged; `observations` holds
    [min, max] of each one, a tensor [2], over all processes that share the batch. The bounds are set in the first
    training forward, or when calibration ends; `bounds_set` mirrors the buffer `initialised`, which says so, in Python,
    where no forward waits for it.

    A subclass defines `static_bounds`, `quantized` and `set_bounds`. `gate` is None where there is none. `trained`:
    whether the bounds are Parameters.
    """

    trained = True
    dynamic = False
    logits: Tensor | None = None
    gate: Any

    def __init__(self, k_bits: int, *, bounds_set: bool = False) -> None:
        super().__init__()
        check_bits(k_bits)
        self.k_bits = k_bits
        self.gate = None
        self.max_val, self.min_val = nn.Buffer(torch.zeros(1)), nn.Buffer(torch.zeros(1))
        self.initialised = nn.Buffer(torch.tensor([bounds_set]))
        self.observations = []
        self.bounds_set = bounds_set
        self.register_load_state_dict_post_hook(type(self).read_flags)

    def __getstate__(self) -> dict[str, Any]:
        """Without the gate's last output: it holds the graph of a forward, which can't be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "logits"}

    @classmethod
    def for_feature(cls, channels: int, k_bits: int, *, percentile: float, **settings: str) -> "ActivationQuantizer":
        """The quantizer of a feature; percentile: where its DDTB bounds start from; settings: the method's."""
        return cls(k_bits)

    def read_flags(self, *_: object) -> None:
        """Mirror the buffers that `load_state_dict`, or another, has changed."""
        self.bounds_set = bool(self.initialised.item())

    def _mirror(self):
        with contextlib.suppress(RuntimeError, AssertionError):  # of tensors without values, as torch's fake ones
            self.read_flags()

    def train(self, mode: bool = True) -> "ActivationQuantizer":
        """Mirror the buffers too: weight averaging writes them directly, so no hook runs."""
        self._mirror()
        return super().train(mode)

    def set_dynamic(self, dynamic: bool) -> None:
        """Say whether the gate is used; only methods.ddtb.DualBoundQuantizer has one."""
        raise NotImplementedError

    @property
    def gated(self) -> bool:
        """Whether the bounds come from the gate."""
        return self.dynamic and self.phase is Phase.DYNAMIC

    def static_bounds(self) -> tuple[Tensor, Tensor]:
        """(lower, upper) as they are kept, [1] each."""
        raise NotImplementedError

    def bounds(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """(lower, upper) for a feature, [1] each, or [N, 1, 1, 1] where they are each image's own."""
        return self.static_bounds()

    def quantized(self, *parts: Tensor) -> Tensor:
        """The feature on its levels, float32 [N, channels, h, w]."""
        raise NotImplementedError

    def has_collapsed(self) -> bool:
        """Whether the bounds have crossed or nearly met, so that a minimal width replaces theirs."""
        lower, upper = self.static_bounds()
        return not torch.equal(raised_upper(lower, upper), upper)

    def set_bounds(self, x: Tensor) -> None:
        """Set the bounds from x, a training batch [N, channels, h, w]."""
        raise NotImplementedError

    def follow_calibration(self, x: Tensor) -> None:
        """Move bounds that are not set yet by a calibration batch, `observations`' last; most wait for the end."""

    def end_calibration(self) -> None:
        """End calibration: forget the records; the last one stays in the buffers of the release's names, unused."""
        if self.observations:
            self.min_val[0], self.max_val[0] = self.observations[-1]
        self.observations.clear()

    def mark_bounds_set(self) -> None:
        """No later batch sets the bounds."""
        self.initialised.fill_(True)
        self.bounds_set = True

    def forward(self, *parts: Tensor) -> Tensor:
        dtype = self.max_val.dtype
        # 16 bit under autocast: levels would be wrong
        parts = tuple(part if part.dtype is dtype else part.to(dtype) for part in parts)
        if self.phase is Phase.CALIBRATE:
            return self._calibrate(parts)
        if not self.bounds_set:
            self._begin(parts)
        return self.quantized(*parts)

    def _begin(self, parts):
        """Set the bounds in training; in evaluation say that there are none."""
        self._mirror()  # replicas of nn.DataParallel have set the buffers, which they share, alone
        if self.bounds_set:
            return
        if self.training:
            self.set_bounds(concatenated(parts))
            self.mark_bounds_set()
        else:
            warnings.warn(NO_RESULT, stacklevel=3)

    def _calibrate(self, parts):
        x = concatenated(parts)
        self.observations.append(batch_extremes(x))
        if not self.bounds_set:
            self.follow_calibration(x)
        return x

    def extra_repr(self) -> str:
        return f"k_bits={self.k_bits}"


def batch_extremes(x: Tensor) -> Tensor:
    """[min, max] of a batch, [2], over all processes that share it."""
    low, high = extremes(x)
    low, high = parallel.all_reduce_max(torch.stack((-low, high)))
    return torch.stack((-low, high))


def quantizers(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """Name and module of every activation quantizer, in the network's order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, ActivationQuantizer)}


def with_gates(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """Those of `quantizers` that have a gate and can become dynamic."""
    return {name: quantizer for name, quantizer in quantizers(network).items() if quantizer.gate is not None}


def gates_in_use(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """Those of `quantizers` whose bounds come from a gate."""
    return {name: quantizer for name, quantizer in quantizers(network).items() if quantizer.gated}


def without_bounds(network: nn.Module) -> list[str]:
    """Names of the quantizers whose bounds nothing has set yet, so that their output means nothing."""
    return [name for name, quantizer in quantizers(network).items() if not quantizer.bounds_set]


def check_finished(network: nn.Module) -> None:
    """Raise ValueError for a network that is not ready for use: in training or calibration, or without bounds."""
    if network.training:
        raise ValueError("the network is in training mode; call eval() first")
    if any(quantizer.phase is Phase.CALIBRATE for quantizer in quantizers(network).values()):
        raise ValueError("the network calibrates, nothing is quantized yet; train it on, or set_phase to another")
    if unset := without_bounds(network):
        raise ValueError(f"{unset[0]} and others have no bounds yet: train the network first")


def collapsed(network: nn.Module) -> list[str]:
    """Names of the quantizers that have collapsed. Waits for the device once per quantizer: for logs, not for steps."""
    return [name for name, quantizer in quantizers(network).items() if quantizer.has_collapsed()]
