"""What the deployment programs (pack, export, cost) share: their flags, and the trained network they work on."""

import argparse

import model
from option import parse_options
from quant.config import QuantConfig
from quant.loading import load_full_precision, load_quantized
from quant.phase import Phase, Phased
from quant.swap import quantize
from utility import UserError

EPILOG = "The network's other flags (--n_feats, --n_resblocks, --res_scale, --RDNconfig, ...) are those of training."


def parse(argv, description, add_flags):
    """Options of a deployment program: training's network flags, checked as there, and its own from add_flags(parser).

    Returns one Namespace. Raises UserError for values that can't work.
    """
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG)
    parser.add_argument("--model", required=True, help="EDSR, RDN or SRResNet")
    parser.add_argument("--scale", required=True, help="magnification: 2, 3 or 4")
    parser.add_argument("--k_bits", default="32", help="bits of weights and features, 32: full precision (default)")
    add_flags(parser)
    own, network_flags = parser.parse_known_args(argv)
    options = parse_options(["--model", own.model, "--scale", own.scale, "--k_bits", own.k_bits, *network_flags],
                            quantized=True)
    for name in ("model", "scale", "k_bits"):
        delattr(own, name)
    return argparse.Namespace(**{**vars(options), **vars(own)})


def load_network(options):
    """The network of --refine in evaluation mode on the CPU; quantized unless --k_bits is 32.

    --refine: a run's folder, a checkpoint of any kind, or a packed file. Raises UserError when it doesn't fit.
    """
    network = model.build(options)
    if options.k_bits == 32:
        load_full_precision(network, options.refine, "--refine")
        return network.eval()
    quantize(network, QuantConfig.of(options))
    load_quantized(network, options.refine, "--refine")
    if phase_of(network) is Phase.CALIBRATE:
        raise UserError(f"--refine {options.refine}: was saved while calibrating, nothing is quantized yet; train on")
    return network.eval()


def phase_of(network):
    """The phase that a quantized network is in."""
    return next(module.phase for module in network.modules() if isinstance(module, Phased))
