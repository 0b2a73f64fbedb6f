"""From one LR image to its SR image: whole or in overlapping tiles, once or averaged over flips and turns."""

import torch

TILE_PIXELS = 160_000
TILE_OVERLAP = 10


def whole_image(network, lr, *, scale, chop=False, self_ensemble=False):
    """lr [1, 3, h, w] to sr [1, 3, scale*h, scale*w].

    chop: in overlapping tiles of at most TILE_PIXELS LR pixels. self_ensemble: averaged over 8 flips and turns.
    """
    def forward(image):
        return _chopped(network, image, scale) if chop else network(image)

    return _ensemble(forward, lr) if self_ensemble else forward(lr)


def _ensemble(forward, lr):
    total = 0
    for turns in range(4):
        for flipped in (False, True):
            image = torch.rot90(lr, turns, (2, 3))
            sr = forward(image.flip(3) if flipped else image)
            total = total + torch.rot90(sr.flip(3) if flipped else sr, -turns, (2, 3))
    return total / 8


def _chopped(network, lr, scale):
    _, _, height, width = lr.shape
    if height * width <= TILE_PIXELS:
        return network(lr)
    axis = 2 if height >= width else 3
    middle = lr.shape[axis] // 2
    first = _chopped(network, lr.narrow(axis, 0, middle + TILE_OVERLAP), scale)
    start = middle - TILE_OVERLAP
    second = _chopped(network, lr.narrow(axis, start, lr.shape[axis] - start), scale)
    return torch.cat((first.narrow(axis, 0, middle * scale),
                      second.narrow(axis, TILE_OVERLAP * scale, (lr.shape[axis] - middle) * scale)), axis)
