"""The staged schedule of DDTB training (quant/README.md, "Schedule")."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from quant.activation import quantizers, with_gates
from quant.phase import Phase, set_phase

log = logging.getLogger(__name__)

DYNAMIC_RATIO = 0.1
FIRST_STAGE_EPOCH = 6
CHOICES = ("variance", "random")


class Schedule:
    """Which phase each epoch is in, what calibration saw, which quantizers became dynamic.

    Epoch 1 calibrates; when epoch 2 starts, the `dynamic_ratio` share of quantizers whose ranges varied most become
    dynamic; from `first_stage_epoch` on their gates are applied. Epochs count from 1. While it calibrates, every
    forward counts as a training batch's: test nothing before epoch 2. Making a schedule changes nothing in the network.

    dynamic_choice: 'variance', the method's, or 'random', an ablation: as many quantizers drawn by `seed`.
    first_phase: the phase of a network that was trained before, which keeps its bounds and gates: earlier phases are
    left out. Raises ValueError for a value that can't be, and for a network that is not quantized.
    """

    def __init__(self, network: nn.Module, *, dynamic_ratio: float, first_stage_epoch: int = FIRST_STAGE_EPOCH,
                 dynamic_choice: str = "variance", seed: int = 1, first_phase: Phase = Phase.CALIBRATE) -> None:
        if not 0 <= dynamic_ratio <= 1:
            raise ValueError(f"dynamic_ratio {dynamic_ratio}: give 0 to 1")
        if dynamic_choice not in CHOICES:
            raise ValueError(f"dynamic_choice {dynamic_choice}: choose {' or '.join(CHOICES)}")
        self.network = network
        self.dynamic_ratio = dynamic_ratio
        self.first_stage_epoch = first_stage_epoch
        self.dynamic_choice = dynamic_choice
        self.seed = seed
        self.first_phase = self.phase = Phase(first_phase)
        self.chosen = self.first_phase is not Phase.CALIBRATE
        self._quantizers = quantizers(network)
        if not self._quantizers:
            raise ValueError("the network holds no quantizers; quantize it before its schedule is made")
        self._candidates = with_gates(network)

    def phase_in(self, epoch: int) -> Phase:
        """The phase that an epoch trains in. Raises ValueError for one below 1."""
        if epoch < 1:
            raise ValueError(f"epoch {epoch}: epochs count from 1")
        if epoch >= self.first_stage_epoch or self.first_phase is Phase.DYNAMIC:
            return Phase.DYNAMIC
        return Phase.STATIC if epoch >= 2 else self.first_phase

    def start_epoch(self, epoch: int) -> None:
        """Put the network into the epoch's phase; after calibration choose the dynamic quantizers, once."""
        self.phase = self.phase_in(epoch)
        if self.phase is Phase.CALIBRATE and not self.chosen:
            for quantizer in self._candidates.values():
                quantizer.set_dynamic(False)
        if self.phase is not Phase.CALIBRATE and not self.chosen:
            self.choose_dynamic()
        set_phase(self.network, self.phase)

    def scores(self) -> dict[str, float]:
        """How much each quantizer's range varied: var(maxima) + var(minima) over the calibration batches, by name."""
        return {name: torch.stack(quantizer.observations).var(0, unbiased=False).sum().item()
                for name, quantizer in self._candidates.items() if quantizer.observations}

    def choose_dynamic(self) -> None:
        """Make the int(dynamic_ratio * count) quantizers with the highest scores dynamic; calibration ends with it."""
        scores = self.scores()
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        if self.dynamic_choice == "random":
            order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(self.seed))
            ranked = [list(scores)[i] for i in order]
        dynamic = set(ranked[: int(self.dynamic_ratio * len(ranked))])
        for name, quantizer in self._candidates.items():
            quantizer.set_dynamic(name in dynamic)
        for quantizer in self._quantizers.values():
            quantizer.end_calibration()
        self.chosen = True
        if self._candidates:
            none = self.dynamic_ratio > 0 and not dynamic
            log.log(logging.WARNING if none else logging.INFO, "%s%d of %d quantizers are dynamic (--dynamic_ratio %g)",
                    "warning: " if none else "", len(dynamic), len(self._candidates), self.dynamic_ratio)

    def gate_regulariser(self) -> Tensor | None:
        """mean over the gates that ran in the last forward of mean(logits**2), pulling beta to 1; None without any."""
        ran: list[Any] = [quantizer.logits for quantizer in self._quantizers.values() if quantizer.logits is not None]
        return sum(logits.square().mean() for logits in ran) / len(ran) if ran else None

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; the choice itself is in the network's `is_dynamic` buffers."""
        observations = {name: torch.stack(quantizer.observations)
                        for name, quantizer in self._quantizers.items() if quantizer.observations}
        return {"phase": self.phase.value, "chosen": self.chosen, "starts_in": self.first_phase.value,
                "observations": observations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the network is put into its phase. Its ratio and epochs are those of the constructor.

        Raises ValueError for records that are not of this network.
        """
        records = state["observations"]
        if not set(records) <= set(self._quantizers) or any(value.shape[1:] != (2,) for value in records.values()) or \
                not isinstance(state["chosen"], bool):
            raise ValueError("the schedule's records can't be used")
        self.phase = Phase(state["phase"])
        self.chosen = state["chosen"]
        self.first_phase = Phase(state.get("starts_in", Phase.CALIBRATE))
        for name, quantizer in self._quantizers.items():
            quantizer.observations = list(records.get(name, torch.empty(0)).to(quantizer.max_val))
        set_phase(self.network, self.phase)
