"""Full-precision training's objective."""

from typing import Any

from torch import Tensor, nn

from loss import Loss
from model.common import compiled


class Supervised:
    """Full-precision training's objective: a `loss.Loss` between sr and hr, in every epoch alike.

    compiler: model.common.compiled's, for the network's forward pass.
    """

    phase = None  # as quantized training has one

    def __init__(self, loss: Loss, *, compiler: str | None = None) -> None:
        self.loss = loss
        self._forward = compiled(lambda network, lr: network(lr), compiler)

    def start_epoch(self, network: nn.Module, epoch: int) -> None:
        """Nothing depends on the epoch."""
        network.train()
        self.loss.train()

    def losses(self, network: nn.Module, lr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss to minimise, {name: weighted part, a detached 0-d tensor}); lr [N, 3, h, w], hr [N, 3, s*h, s*w]."""
        total = self.loss(self._forward(network, lr), hr)
        return total, dict(self.loss.parts)

    def state_dict(self) -> dict[str, Any]:
        """The loss's own state: a discriminator with its optimizer, where it has one."""
        return {"loss": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the loss."""
        self.loss.load_state_dict(state["loss"])
