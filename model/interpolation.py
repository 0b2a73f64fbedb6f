"""The start of short training: an untrained network that is bilinear interpolation.

SRResNet and RDN make the whole image from their features, not its difference from an enlarged one. From random weights
some thousand steps go into that alone.
"""

import torch
from torch import Tensor, nn

from model.common import SuperResolver, shuffle_factors
from utility import UserError


@torch.no_grad()
def start_as_interpolation(network: SuperResolver) -> SuperResolver:
    """Make a fresh network give its input enlarged bilinearly; other weights stay random. Returns the network.

    The first n_colors features carry the image: the first convolution copies it there, the body adds nothing, each
    pixel shuffle enlarges them, the last convolution copies them into the output. Pixels have to be 0 or more where
    the network has PReLU behind its first convolution, as they are in SRResNet. At the border the zero padding shows.
    Raises UserError for a network that is too small for it.
    """
    first, end, convs = network.interpolation_layers()
    colours = network.n_colors
    if first.out_channels < colours or min(conv.kernel_size[0] for conv in convs) < 3:
        raise UserError(f"--init interpolation: needs {colours} features and kernels of 3 or more; leave it out")
    for parameter in end.parameters():
        parameter[:colours] = 0
    convs[-1].weight.zero_()
    for conv, factor in zip([first, *convs], [1, *shuffle_factors(network.scale), 1], strict=True):
        _enlarge(conv, factor, colours)
    return network


def _enlarge(conv: nn.Conv2d, factor: int, colours: int) -> None:
    """Set the weights so that convolution and pixel shuffle enlarge each colour bilinearly; a factor of 1 copies.

    The shuffle makes output channel c * factor^2 + y * factor + x the sub-pixel (y, x) of colour c.
    """
    taps = torch.stack([_bilinear((place + 0.5) / factor - 0.5, conv.kernel_size[0]) for place in range(factor)])
    kernels = torch.einsum("ai,bj->abij", taps, taps).flatten(0, 1)
    for colour in range(colours):
        outputs = slice(colour * factor**2, (colour + 1) * factor**2)
        conv.weight[outputs] = 0
        conv.weight[outputs, colour] = kernels
        if conv.bias is not None:
            conv.bias[outputs] = 0


def _bilinear(offset: float, size: int) -> Tensor:
    """The weights [size] of the pixels around one for a place that lies `offset` pixels, -0.5 to 0.5, beside it."""
    return (1 - (torch.arange(size) - size // 2 - offset).abs()).clamp(min=0)
