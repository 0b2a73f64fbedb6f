"""Mixed precision (--amp): which part of a training step runs in 16 bit, and what keeps float16 gradients alive."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Autocast for the forward pass and, for fp16, a scaled loss whose overflowing steps are left out.

    amp: 'off', 'bf16' or 'fp16'. The convolutions of student and teacher run in 16 bit. Weights, bounds and optimizer
    stay float32, and so does the arithmetic of quantizers, gates and losses, each by its own code:
    - round(s*x - z), with z up to 255, leaves bfloat16's 8 significant bits no fraction to round by: levels would be
      wrong by whole steps. Given the same x they are those of float32 to the bit;
    - most steps move a bound by less than 16 bit can resolve;
    - losses are means of squares, which overflow float16, and of differences that late in training are smaller than
      bfloat16's half grey level.
    A quantizer's result m/s stays float32, which keeps the skip connections exact; the convolution after it casts it.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        self.device_type = device.type
        self.dtype = DTYPES.get(amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> torch.autocast:
        """Context in which a forward pass runs."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled until `step`."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], *, gclip: float = 0.0) -> None:
        """Step by the gradients, clipped to +-gclip where that is above 0; not at all where float16 overflowed."""
        self.scaler.unscale_(optimizer)
        if gclip > 0:
            torch.nn.utils.clip_grad_value_(parameters, gclip)
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale of float16 gradients; empty for other precisions."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a scale; one begun in another precision starts from torch's own."""
        if state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state)
