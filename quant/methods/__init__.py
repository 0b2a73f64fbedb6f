"""The quantizers that the literature compares DDTB with, in DDTB's places of a network.

Each file holds one activation quantizer, its equation and its source; METHODS names the weight quantizer of the same
paper (quant.weight). What no paper says, because it did not quantize such networks, is said in the class.
"""

from dataclasses import dataclass

from quant.methods.dorefa import DoReFaQuantizer
from quant.methods.minmax import MovingRangeQuantizer
from quant.methods.pact import PactQuantizer
from quant.methods.pams import PamsQuantizer


@dataclass(frozen=True)
class Method:
    """activation: class of the activation quantizer, made with k_bits. weight: name in quant.weight."""

    activation: type
    weight: str


METHODS = {
    "pams": Method(PamsQuantizer, "symmetric"),
    "pact": Method(PactQuantizer, "dorefa"),
    "dorefa": Method(DoReFaQuantizer, "dorefa"),
    "minmax": Method(MovingRangeQuantizer, "minmax"),
}
