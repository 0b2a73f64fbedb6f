"""The quantizers by name: DDTB, and those that the literature compares it with, in DDTB's places of a network.

To add one: write a subclass of `quant.activation.ActivationQuantizer` in a file of its own, and add its Method to
METHODS, here or in that file; quant/__init__.py then imports the file.
"""

from dataclasses import dataclass, field

from quant.activation import ActivationQuantizer
from quant.methods.compared import DoReFaQuantizer, MovingRangeQuantizer, PamsQuantizer, ScaleQuantizer
from quant.methods.ddtb import DualBoundQuantizer


@dataclass(frozen=True)
class MethodSetting:
    """A flag of a method: its values, the default first, and its help.

    for_start: it says where training starts, and means nothing to a trained network.
    """

    values: tuple[str, ...]
    help: str
    for_start: bool = False


@dataclass(frozen=True)
class Method:
    """activation: class of the activation quantizer. weight: a name in quant.weight, '' for the network's own.

    settings: {flag: MethodSetting} of the method's own.
    """

    activation: type[ActivationQuantizer]
    weight: str
    settings: dict[str, MethodSetting] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "ddtb": Method(DualBoundQuantizer, "", {
        "init_bounds": MethodSetting(
            ("percentile", "calibrated", "released"), for_start=True,
            help="ddtb: start of the bounds: percentiles of the first quantized batch; calibrated: of calibration's, "
                 "where no feature is quantized; released: percentiles at 2 bits alone, else 10"),
        "bounds": MethodSetting(
            ("dual", "symmetric"),
            help="ddtb: two trainable bounds; symmetric: one for both sides, an ablation")}),
    "pams": Method(PamsQuantizer, "symmetric"),
    "pact": Method(ScaleQuantizer, "dorefa"),
    "dorefa": Method(DoReFaQuantizer, "dorefa"),
    "minmax": Method(MovingRangeQuantizer, "minmax"),
}


def method_settings() -> dict[str, MethodSetting]:
    """The settings of all methods, by flag."""
    return {name: setting for method in METHODS.values() for name, setting in method.settings.items()}
