"""The registry of full-precision networks; quantization is applied to them from outside, by `quant`."""

from model.edsr import EDSR
from model.rdn import RDN
from model.srresnet import SRResNet

NETWORKS = {"edsr": EDSR, "rdn": RDN, "srresnet": SRResNet}

# the options each constructor takes, besides scale and n_colors
OPTION_NAMES = {
    "edsr": ("n_resblocks", "n_feats", "res_scale", "rgb_range"),
    "rdn": ("G0", "RDNkSize", "RDNconfig"),
    "srresnet": ("n_resblocks", "n_feats"),
}


def build(options):
    """The network that the options describe, freshly initialised, on the CPU."""
    names = ("scale", "n_colors", *OPTION_NAMES[options.model])
    return NETWORKS[options.model](**{name: getattr(options, name) for name in names})


def name_of(network):
    """The registry's name of a network."""
    return next(name for name, kind in NETWORKS.items() if isinstance(network, kind))
