"""The quantizers by name: DDTB, and those that the literature compares it with, in DDTB's places of a network.

Each file holds one activation quantizer, its equation and its source. What no paper says, because it did not quantize
such networks, is said in the class. To add one: write a subclass of `quant.activation.ActivationQuantizer` in a file of
its own and add its Method to METHODS.
"""

from dataclasses import dataclass, field

from quant.activation import ActivationQuantizer
from quant.methods.ddtb import DualBoundQuantizer
from quant.methods.dorefa import DoReFaQuantizer
from quant.methods.minmax import MovingRangeQuantizer
from quant.methods.pact import PactQuantizer
from quant.methods.pams import PamsQuantizer


@dataclass(frozen=True)
class Method:
    """activation: class of the activation quantizer. weight: a name in quant.weight, '' for the network's own.

    settings: {flag: its values, the default first} of the method's own. start_settings: those of them that say where
    training starts and mean nothing to a trained network.
    """

    activation: type[ActivationQuantizer]
    weight: str
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    start_settings: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "ddtb": Method(DualBoundQuantizer, "", {"init_bounds": ("percentile", "calibrated", "released"),
                                            "bounds": ("dual", "symmetric")}, start_settings=("init_bounds",)),
    "pams": Method(PamsQuantizer, "symmetric"),
    "pact": Method(PactQuantizer, "dorefa"),
    "dorefa": Method(DoReFaQuantizer, "dorefa"),
    "minmax": Method(MovingRangeQuantizer, "minmax"),
}


def setting_names() -> set[str]:
    """The settings of all methods."""
    return {name for method in METHODS.values() for name in method.settings}
