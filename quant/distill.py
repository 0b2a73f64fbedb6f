"""What DDTB training minimises (quant/README.md, "Losses"): the student against the images and against its teacher."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss.attention_transfer import attention_transfer
from model.common import SuperResolver, compiled, unwrapped
from quant.activation import quantizers, without_bounds
from quant.phase import Phase
from quant.schedule import Schedule

BOUND_LR = 1e-2


class Distillation:
    """The quantized trainer's objective: w_l1 * L1 + w_at * AT, and the gates' regulariser while they run beside.

    teacher: the full-precision network; its parameters are never touched. schedule: a quant.Schedule of the student.
    compiler: model.common.compiled's, for the forward passes of both. Raises ValueError where both share Parameters;
    so do `start_epoch` and `losses` for another network than the schedule's. TypeError for one with a forward of its
    own (SuperResolver.check_parts).
    """

    def __init__(self, teacher: SuperResolver, schedule: Schedule, *, w_l1: float = 1.0, w_at: float = 1000.0,
                 compiler: str | None = None) -> None:
        if not {*teacher.parameters()}.isdisjoint(schedule.network.parameters()):
            raise ValueError("teacher and student share Parameters, which would be frozen; quantize a deep copy")
        for network in (teacher, unwrapped(schedule.network)):
            network.check_parts()
        self.teacher = teacher.eval().requires_grad_(False)
        self.schedule = schedule
        self.w_l1 = w_l1
        self.w_at = w_at
        self._compiles = compiler is not None
        self._forward_features = compiled(_forward_features, compiler)
        self._body_feature = compiled(lambda network, lr: network.body_feature(lr), compiler)

    def start_epoch(self, network: SuperResolver, epoch: int) -> None:
        """Enter the epoch's phase; calibration runs in evaluation mode."""
        self._check(network)
        self.schedule.start_epoch(epoch)
        network.train(self.schedule.phase is not Phase.CALIBRATE)

    @property
    def phase(self) -> Phase:
        """The Phase of the epoch that trains."""
        return self.schedule.phase

    def losses(self, network: SuperResolver, lr: Tensor, hr: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Run the student on lr [N, 3, h, w] and compare with hr [N, 3, s*h, s*w].

        Returns (loss to minimise, or None while calibrating; {name: weighted part, a detached 0-d tensor}).
        """
        self._check(network)
        if self.schedule.phase is Phase.CALIBRATE:
            with torch.no_grad():  # each quantizer records its input's extremes
                return None, {"L1": self.w_l1 * F.l1_loss(network(lr).float(), hr)}
        # the step that sets the bounds comes once; compiled, it would leave every quantizer a graph of its own for good
        plain = self._compiles and without_bounds(network)
        forward = _forward_features if plain else self._forward_features
        sr, feature = forward(network, lr)
        with torch.no_grad():
            guide = self._body_feature(self.teacher, lr)
        parts: dict[str, Any] = {"L1": self.w_l1 * F.l1_loss(sr.float(), hr),
                                 "AT": self.w_at * attention_transfer(feature, guide)}
        if self.schedule.phase is Phase.STATIC and (regulariser := self.schedule.gate_regulariser()) is not None:
            parts["GATE"] = regulariser
        return sum(parts.values()), {name: part.detach() for name, part in parts.items()}

    def _check(self, network):
        if unwrapped(network) is not unwrapped(self.schedule.network):
            raise ValueError("the network is another one than that of the schedule; make a schedule for it")

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state, and the teacher: a run continues from its checkpoint alone."""
        return {"schedule": self.schedule.state_dict(), "teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the schedule, with the teacher it began with."""
        self.teacher.load_state_dict(state["teacher"])
        self.schedule.load_state_dict(state["schedule"])


def _forward_features(network, lr):
    return network.forward_features(lr)


def parameter_groups(network: nn.Module, *, bound_lr: float = BOUND_LR) -> list[dict[str, Any]]:
    """For the optimizer: bounds with a rate of their own and no decay, everything else by the optimizer's options.

    Bounds are the Parameters that lie in a quantizer itself.
    """
    bounds = {id(bound) for quantizer in quantizers(network).values() for bound in quantizer.parameters(recurse=False)}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [{"params": [parameter for parameter in trained if id(parameter) not in bounds]},
            {"params": [parameter for parameter in trained if id(parameter) in bounds], "lr": bound_lr,
             "weight_decay": 0.0}]


def bounds_by_name(network: nn.Module) -> dict[str, float]:
    """{"bounds/<quantizer>/lower" or upper: value}, empty in full precision. Waits for the device: for logs."""
    return {f"bounds/{name}/{side}": bound.item() for name, quantizer in quantizers(network).items()
            for side, bound in zip(("lower", "upper"), quantizer.static_bounds(), strict=True)}
