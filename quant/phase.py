"""The phases of DDTB training (quant/README.md, "Schedule") and how quantized modules learn which one it is."""

import enum

from torch import nn


class Phase(enum.Enum):
    """CALIBRATE: features pass, ranges are recorded. STATIC: quantized, gates beside. DYNAMIC: gates applied."""

    CALIBRATE = "calibrate"
    STATIC = "static"
    DYNAMIC = "dynamic"


class Phased:
    """A module that behaves by phase; a network just swapped starts as one ready for use, DYNAMIC."""

    phase = Phase.DYNAMIC


def set_phase(network: nn.Module, phase: Phase) -> None:
    """Tell every quantized module of the network."""
    for module in network.modules():
        if isinstance(module, Phased):
            module.phase = phase


def phase_of(network: nn.Module) -> Phase:
    """The phase that a quantized network is in."""
    return next(module.phase for module in network.modules() if isinstance(module, Phased))
