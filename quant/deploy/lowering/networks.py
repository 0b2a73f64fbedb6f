"""Which networks can be lowered, by which file."""

from model.edsr import EDSR
from model.rdn import RDN
from model.srresnet import SRResNet
from quant.deploy.lowering import edsr, rdn, srresnet
from utility import UserError

LOWERINGS = {EDSR: edsr, RDN: rdn, SRResNet: srresnet}


def lowering_of(network):
    """The module that lowers a network: its `network`, FLOAT_BLOCKS, EXACT_BLOCKS and `int8_network`.

    Raises UserError where there is none.
    """
    if type(network) not in LOWERINGS:
        raise UserError(f"--model {type(network).__name__}: can be trained, tested and packed, not exported to ONNX; "
                        "no file in quant/deploy/lowering says how")
    return LOWERINGS[type(network)]
