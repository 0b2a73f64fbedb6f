"""From one LR image to its SR image: whole or in tiles, once or averaged over flips and turns."""

import torch
from torch import Tensor, nn

from model.common import constant_weights
from model.tiles import in_tiles


def super_resolve(network: nn.Module, lr: Tensor, *, scale: int, chop_size: int | None = None,
                  self_ensemble: bool = False) -> Tensor:
    """lr [1, C, h, w] to sr [1, C, scale*h, scale*w], both in 0..rgb_range.

    chop_size: compute images that are longer or wider than so many LR pixels in tiles, to bound the memory: so large
    for the upsampler, larger for the body, which has smaller features.
    self_ensemble: the mean over the 8 flips and quarter turns of lr, each turned back. Raises ValueError for
    another scale than the network's, a chop_size that is no whole number from 1, and tiles of several images.
    """
    if chop_size is not None and (not isinstance(chop_size, int) or chop_size < 1):
        raise ValueError(f"chop_size {chop_size!r}: give a whole number of pixels, or None for no tiles")
    if scale != getattr(network, "scale", scale):
        raise ValueError(f"scale {scale}: the network's is {network.scale}")
    if chop_size and len(lr) != 1:
        raise ValueError(f"chop_size: tiles are of one image, not of {len(lr)}; give them one by one")

    def forward(image):
        return in_tiles(network, image, scale=scale, size=chop_size) if chop_size else network(image)

    with constant_weights():
        return _ensemble(forward, lr) if self_ensemble else forward(lr)


def _ensemble(forward, lr):
    total = None
    for turns in range(4):
        for flipped in (False, True):
            image = torch.rot90(lr, turns, (2, 3))
            sr = forward(image.flip(3) if flipped else image)
            sr = torch.rot90(sr.flip(3) if flipped else sr, -turns, (2, 3)).float()
            total = sr.clone() if total is None else total.add_(sr)
    return total.div_(8)
