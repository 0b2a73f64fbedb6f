"""Which networks can be lowered, by which file."""

from types import ModuleType

from model.common import SuperResolver
from model.edsr import EDSR
from model.rdn import RDN
from model.srresnet import SRResNet
from quant.deploy.lowering import edsr, rdn, srresnet
from quant.swap import is_quantized
from utility import UserError

LOWERINGS = {EDSR: edsr, RDN: rdn, SRResNet: srresnet}


def lowering_of(network: SuperResolver) -> ModuleType:
    """The module that lowers a network: its `network`, FLOAT_BLOCKS, EXACT_BLOCKS and `int8_network`.

    Raises UserError for a network or a quantizer that has no lowering.
    """
    if type(network) not in LOWERINGS:
        raise UserError(f"--model {type(network).__name__}: can be trained, tested and packed, not exported; "
                        f"{', '.join(kind.__name__ for kind in LOWERINGS)} can")
    if is_quantized(network) and network.quant_config.quantizer != "ddtb":
        raise UserError(f"--quantizer {network.quant_config.quantizer}: can be trained and tested, not exported; "
                        "ddtb can")
    return LOWERINGS[type(network)]
