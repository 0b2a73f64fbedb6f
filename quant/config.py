"""What a quantized network is: bits, method, and the method's own settings."""

from argparse import Namespace
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from quant.functional import check_bits
from quant.methods import METHODS, Method, method_settings


def quant_flags() -> tuple[str, ...]:
    """The names of all that a QuantConfig is made of, each a flag of the same name."""
    return ("k_bits", "quantizer", "skip_bits", *sorted(method_settings()))


def as_kept(given: dict[str, Any], k_bits: int) -> dict[str, Any]:
    """Flags that were given, {name: value}, as a QuantConfig of so many bits keeps them."""
    return {**given, "skip_bits": 0} if given.get("skip_bits") == k_bits else given


@dataclass(init=False, frozen=True)
class QuantConfig:
    """k_bits: 2..8, for weights and features. quantizer: a name in quant.methods.METHODS.

    skip_bits: 2..8, for features that feed a sum and no convolution; 0: k_bits, as published. settings: the method's
    own, by name; those not given have their default, those of another method are left out. Frozen, as networks keep
    it. Raises ValueError for a value that can't be, and for a name that no method knows.
    """

    k_bits: int
    quantizer: str
    skip_bits: int
    settings: dict[str, str]

    def __init__(self, k_bits: int, quantizer: str = "ddtb", skip_bits: int = 0, **settings: str) -> None:
        if quantizer not in METHODS:
            raise ValueError(f"quantizer {quantizer}: choose {', '.join(METHODS)}")
        k_bits, skip_bits = (int(bits) if isinstance(bits, Integral) else bits for bits in (k_bits, skip_bits))
        check_bits(k_bits)
        if skip_bits != 0:
            check_bits(skip_bits)
        if unknown := settings.keys() - method_settings().keys():
            raise ValueError(f"{', '.join(sorted(unknown))}: unknown to this version")
        known = METHODS[quantizer].settings.items()
        kept = {name: settings.get(name, setting.values[0]) for name, setting in known}
        for name, setting in known:
            if kept[name] not in setting.values:
                raise ValueError(f"{name} {kept[name]}: choose {', '.join(setting.values)}")
        vars(self).update(k_bits=k_bits, quantizer=quantizer, skip_bits=0 if skip_bits == k_bits else skip_bits,
                          settings=kept)

    @classmethod
    def of(cls, options: Namespace) -> "QuantConfig":
        """The configuration that parsed options name."""
        return cls(**{name: getattr(options, name) for name in quant_flags()})

    @property
    def method(self) -> Method:
        return METHODS[self.quantizer]

    @property
    def sum_bits(self) -> int:
        """Bits of the features that feed a sum: skip_bits, or k_bits where that is 0."""
        return self.skip_bits or self.k_bits

    def to_dict(self) -> dict:
        """What the constructor takes, as files keep it."""
        return {"k_bits": self.k_bits, "quantizer": self.quantizer, "skip_bits": self.skip_bits, **self.settings}

    def trained(self) -> dict:
        """`to_dict` without what means nothing to a trained network."""
        for_start = {name for name, setting in self.method.settings.items() if setting.for_start}
        return {name: value for name, value in self.to_dict().items() if name not in for_start}
