"""Losses of full-precision training, by the grammar of --loss: `1*L1+0.006*VGG54+0.001*GAN`."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loss import adversarial, vgg
from loss.adversarial import MIN_PATCH, Adversarial
from utility import UserError

PARTS = ("L1", "MSE", *vgg.DEPTHS, *adversarial.KINDS)


def build(spec: str, *, rgb_range: float, patch_size: int, gan_k: int = 1, vgg_weights: str | Path | None = None,
          device: torch.device | str = "cpu") -> "Loss":
    """Make the loss that `spec`, the value of --loss, asks for.

    The loss takes sr and hr [N, 3, patch_size, patch_size] in 0..rgb_range; one channel counts as three equal ones.
    gan_k: discriminator steps per call, 1 or more. vgg_weights: a file with VGG19; torchvision's download without it.
    Raises UserError, naming the flag or file, for a sum that does not parse, weights that can't be had, and patches too
    small for a part.
    """
    weights = parse(spec)
    for name in weights:
        least = MIN_PATCH if name in adversarial.KINDS else vgg.MIN_PATCH.get(name, 1)
        if patch_size < least:
            raise UserError(f"--patch_size {patch_size}: too small for {name} in --loss; give {least} or more")
    terms = {name: _build_part(name, rgb_range, patch_size, gan_k, vgg_weights) for name in weights}
    return Loss(weights, terms).to(device)


def parse(spec: str) -> dict[str, float]:
    """{part: weight} of a sum such as `1*L1+0.1*GAN`, in its order. Raises UserError naming --loss."""
    weights = {}
    for term in re.split(r"(?<![\d.][eE])\+", spec):  # the + of 1e+3 joins no parts
        weight, star, name = (piece.strip() for piece in term.partition("*"))
        if not star:
            raise _mistake(spec, f"'{term.strip()}' is not <weight>*<part>")
        if name not in PARTS:
            raise _mistake(spec, f"there is no part '{name}'")
        if name in weights:
            raise _mistake(spec, f"{name} appears twice")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = math.nan
        if not 0 <= weights[name] < math.inf:
            raise _mistake(spec, f"'{weight}' is not a weight of 0 or more")
    if not any(weights.values()):
        raise _mistake(spec, "every weight is 0")
    rivals = [name for name in weights if name in adversarial.KINDS]
    if len(rivals) > 1:
        raise _mistake(spec, f"only one of {', '.join(rivals)} can train at a time")
    return weights


def _mistake(spec, reason):
    return UserError(f"--loss {spec}: {reason}; give a sum such as 1*L1+0.001*GAN of the parts {', '.join(PARTS)}")


def _build_part(name, rgb_range, patch_size, gan_k, vgg_weights):
    if name in adversarial.KINDS:
        return Adversarial(name, patch_size=patch_size, rgb_range=rgb_range, gan_k=gan_k)
    if name in vgg.DEPTHS:
        state = vgg.read_vgg19(vgg_weights or vgg.download_vgg19(), name)
        return vgg.VGGLoss(name, state, rgb_range=rgb_range)
    return nn.L1Loss() if name == "L1" else nn.MSELoss()


class Loss(nn.Module):
    """A weighted sum of parts, for sr and hr [N, 3 or 1, h, w] in 0..rgb_range.

    `parts`: name -> weighted part of the last call, a detached 0-d tensor (no host sync); beside an adversarial part
    its discriminator's loss as DIS. The state dict holds what trains, discriminator and optimizer, and nothing else.
    Everything is float32 even under autocast: in bfloat16 a pixel near 255 is off by up to half a grey level, more than
    what late training still gains, and squares of VGG features overflow float16.
    """

    def __init__(self, weights: Mapping[str, float], terms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.weights = weights
        self.terms = nn.ModuleDict(terms)
        self.parts = {}

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the float32 scalar to minimise; its gradients reach sr only. Raises ValueError if shapes differ."""
        if sr.shape != hr.shape:
            raise ValueError(f"sr {list(sr.shape)} and hr {list(hr.shape)} differ in shape")
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = sr.float(), hr.detach().float()
            weighted = {name: weight * self.terms[name](sr, hr) for name, weight in self.weights.items()}
        self.parts = {name: part.detach() for name, part in weighted.items()}
        for term in self.terms.values():
            if isinstance(term, Adversarial) and term.discriminator_loss is not None:
                self.parts["DIS"] = term.discriminator_loss
        return sum(weighted.values())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Continue a loss of the same parts. Raises UserError, naming --loss, for the state of another one."""
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            own, other = _adversary(self.state_dict()), _adversary(state_dict)
            reason = f"this run trains {own}, the checkpoint {other}" if own != other else \
                "--patch_size has another value than in the checkpoint's training, and a discriminator has one size"
            raise UserError(f"--loss: {reason}; give the flags of the checkpoint's training, or begin a run of its own "
                            "with --pre_train and another --save") from error


def _adversary(state):
    """Whose discriminator a state dict of Loss holds."""
    return next((f"against a {key.split('.')[1]}" for key in state), "without a discriminator")
