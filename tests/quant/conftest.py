import numpy as np
import pytest
import torch

from model import NETWORKS
from quant import QuantConfig, quantize
from quant.activation import quantizers

SMALL = {"edsr": {"n_resblocks": 2, "n_feats": 12, "res_scale": 0.5}, "srresnet": {"n_resblocks": 2, "n_feats": 12},
         "rdn": {"G0": 12, "RDNconfig": "A"}}


@pytest.fixture
def small_network(small_rdn):
    """Function that builds a small network whose bounds come from images: (name, scale, k_bits, dynamic share).

    k_bits 32: the full-precision network. In evaluation mode.
    """
    def build(name, scale=2, k_bits=4, dynamic=0.5, skip_bits=0, **settings):
        torch.manual_seed(scale + 10 * k_bits)
        network = NETWORKS[name](scale=scale, **{**SMALL[name], **settings})
        _wake_up(network)
        if k_bits == 32:
            return network.eval()
        quantize(network, QuantConfig(k_bits, skip_bits=skip_bits)).train()
        with torch.no_grad():
            image = smooth_image(16, 16, count=2, channels=network.settings["n_colors"])
            network(image * (network.settings.get("rgb_range", 255) / 255))
        _wake_up(network)
        members = list(quantizers(network).values())
        for index, quantizer in enumerate(members):
            quantizer.set_dynamic((index + 1) % 2 < 2 * dynamic if dynamic < 1 else True)
            # bounds that just come from images lie on levels of the quantizer before, whose halves any rounding decides
            for bound in quantizer.parameters(recurse=False):
                torch.nn.init.uniform_(bound, *sorted((0.97 * bound.item(), 1.03 * bound.item())))
            torch.nn.init.normal_(quantizer.gate.expand.weight, std=0.3)
        return network.eval()

    return build


def _wake_up(network):
    """Statistics and offsets of norms as training leaves them: no two channels alike, some of them turned.

    Gates with norms as they begin give multiples of one number, and half levels among them that any rounding decides.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, -0.2, 1)
            torch.nn.init.normal_(module.bias, std=0.1)


def smooth_image(height, width, *, count=1, channels=3, seed=0):
    """float32 [count, channels, height, width] of whole numbers 0..255: random waves, each image brighter."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 8
    images = [[np.sin(rng.uniform(-2, 2) * rows + rng.uniform(-2, 2) * columns + rng.uniform(0, 6)) * 60 + 90 + 40 * i
               for _ in range(channels)] for i in range(count)]
    return torch.from_numpy(np.rint(np.clip(images, 0, 255)).astype(np.float32))


@pytest.fixture(name="smooth_image")
def smooth_image_fixture():
    """The function `smooth_image`."""
    return smooth_image
