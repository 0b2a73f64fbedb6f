"""Losses of full-precision training, by the grammar of --loss: `1*L1+0.006*VGG54+0.001*GAN`."""

import math
import re

import torch
from torch import nn

from utility import UserError

PARTS = ("L1", "MSE")


def build(spec, *, rgb_range, patch_size, gan_k=1, vgg_weights=None, device="cpu"):
    """Make the loss that `spec`, the value of --loss, asks for; sr and hr are [N, 3, patch_size, patch_size].

    Raises UserError, naming the flag, for a sum that does not parse.
    """
    weights = parse(spec)
    return Loss(weights, {name: _build_part(name) for name in weights}).to(device)


def _build_part(name):
    return nn.L1Loss() if name == "L1" else nn.MSELoss()


def parse(spec):
    """{part: weight} of a sum such as `1*L1+0.1*MSE`, in its order. Raises UserError naming --loss."""
    weights = {}
    for term in re.split(r"(?<!\d[eE])\+", spec):  # the + of 1e+3 is no sum
        weight, star, name = (piece.strip() for piece in term.partition("*"))
        if not star:
            raise _mistake(spec, f"'{term.strip()}' is not <weight>*<part>")
        if name not in PARTS:
            raise _mistake(spec, f"there is no part '{name}'")
        if name in weights:
            raise _mistake(spec, f"{name} appears twice")
        weights[name] = _weight(weight, spec)
    if not any(weights.values()):
        raise _mistake(spec, "every weight is 0")
    return weights


def _weight(text, spec):
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise _mistake(spec, f"'{text}' is not a weight of 0 or more")
    return weight


def _mistake(spec, reason):
    return UserError(f"--loss {spec}: {reason}; give a sum such as 1*L1+0.1*MSE of the parts {', '.join(PARTS)}")


class Loss(nn.Module):
    """A weighted sum of parts. `parts`: name -> weighted part of the last call, a detached 0-d tensor (no host sync).

    Everything is float32 even under autocast: in bfloat16 a pixel near 255 is off by up to half a grey level, more than
    what late training still gains, and means of squares overflow float16.
    """

    def __init__(self, weights, terms):
        super().__init__()
        self.weights = weights
        self.terms = nn.ModuleDict(terms)
        self.parts = {}

    def forward(self, sr, hr):
        """sr, hr: [N, 3, h, w] in 0..rgb_range. Returns the float32 scalar to minimise. ValueError if shapes differ."""
        if sr.shape != hr.shape:
            raise ValueError(f"sr {list(sr.shape)} and hr {list(hr.shape)} differ in shape")
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = sr.float(), hr.float()
            weighted = {name: weight * self.terms[name](sr, hr) for name, weight in self.weights.items()}
        self.parts = {name: part.detach() for name, part in weighted.items()}
        return sum(weighted.values())
