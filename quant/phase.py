"""The phases of DDTB training (quant/README.md, "Schedule") and how quantized modules learn which one it is."""

import enum

from torch import nn


class Phase(enum.Enum):
    """CALIBRATE: features pass unchanged, ranges are recorded. STATIC: quantized between trained bounds; the chosen
    gates learn to give 1 and are not applied. DYNAMIC: they are.
    """

    CALIBRATE = "calibrate"
    STATIC = "static"
    DYNAMIC = "dynamic"


class Phased:
    """A module that behaves by phase; a network just swapped starts as one ready for use, DYNAMIC."""

    phase = Phase.DYNAMIC


def set_phase(network: nn.Module, phase: Phase | str) -> None:
    """Tell every quantized module of the network. phase: also its value, as "static"; ValueError for another.

    State dicts do not hold the phase. A copy or a moving average of a network that trains on keeps the phase in which
    it was made: tell it with `set_phase(average, phase_of(network))`, or its gates are not applied.
    """
    phase = Phase(phase)
    for module in network.modules():
        if isinstance(module, Phased):
            module.phase = phase


def phase_of(network: nn.Module) -> Phase:
    """The phase that a quantized network is in."""
    return next(module.phase for module in network.modules() if isinstance(module, Phased))
