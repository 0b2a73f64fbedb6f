"""Large images in overlapping tiles: the whole image's result, in the memory of one tile.

A tile is computed with a margin of neighbours around the core that is kept of it. With a margin as wide as the network
can see, the core is the whole image's result. What remains are means over the whole image (GlobalMean, in the gates of
dynamic quantizers): passes over all tiles gather them, each with the means of the pass before, until they stay. The
first gate has its true mean after one pass, the second, which depends on the first, after two at the latest, and so on.
"""

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

# means that agree to this are the same but for the order of a sum
SETTLED = 1e-6


class GlobalMean(nn.Module):
    """A feature [N, C, h, w] to its mean over the image, [N, C, 1, 1]; also where it is one of an image's tiles.

    The feature comes whole, or in parts that would be concatenated over channels.
    `of_tiles`: a TileMeans while an image passes in tiles, else None.
    """

    def __init__(self):
        super().__init__()
        self.of_tiles = None

    def forward(self, *parts):
        if self.of_tiles is not None:
            return self.of_tiles.see(torch.cat(parts, 1))
        return torch.cat([F.adaptive_avg_pool2d(part, 1) for part in parts], 1)


class TileMeans:
    """Adds up what one GlobalMean sees of each tile's core, and answers with the mean of the last pass.

    In the first pass, when there is none, the tile's own mean stands in.
    """

    def __init__(self):
        self.mean = None
        self.total = 0
        self.core = None

    def see(self, x):
        """x: the feature of a tile, [1, C, h, w]; `core` says which part of it counts. Returns [1, C, 1, 1]."""
        part = x[(..., *self.core)].sum((2, 3), keepdim=True)
        self.total = self.total + part
        return F.adaptive_avg_pool2d(x, 1) if self.mean is None else self.mean

    def finish_pass(self, pixels):
        """Take the mean over so many pixels as known; returns whether it is the one that was known before."""
        before, self.mean = self.mean, self.total / pixels
        self.total = 0
        return before is not None and torch.allclose(before, self.mean, rtol=SETTLED, atol=SETTLED * before.abs().max())


@dataclass(frozen=True)
class Tile:
    """Slices (rows, columns): `window` and `kept` of the image, `core` of the window, where kept is in it."""

    window: tuple
    core: tuple
    kept: tuple


def plan_tiles(height, width, *, size, margin):
    """Tiles of at most size x size pixels whose kept parts cover the image once, margin or more from inner edges."""
    rows, columns = (_spans(length, size, margin) for length in (height, width))
    return [Tile(*zip(row, column, strict=True)) for row in rows for column in columns]


def _spans(length, size, margin):
    """(window, core, kept) slices along one axis; all windows are equally long."""
    window = min(length, size)
    count = 1 + math.ceil((length - window) / max(1, window - 2 * margin))
    starts = [round(i * (length - window) / max(1, count - 1)) for i in range(count)]
    middles = [(end + start + window) // 2 for end, start in zip(starts, starts[1:], strict=False)]
    bounds = [0, *middles, length]
    return [(slice(start, start + window), slice(first - start, last - start), slice(first, last))
            for start, first, last in zip(starts, bounds[:-1], bounds[1:], strict=True)]


def reach(network):
    """How many LR pixels around a pixel a network can see, at most: half a kernel for each convolution."""
    return sum(module.kernel_size[0] // 2 for module in network.modules() if isinstance(module, nn.Conv2d))


def in_tiles(network, lr, *, scale, size):
    """network(lr) for one image [1, C, h, w], in tiles of at most size x size LR pixels; memory grows with those.

    The margin is the network's reach, but a quarter of `size` at most: with a reach beyond that (RDN) the result is
    close, not equal.
    """
    _, _, height, width = lr.shape
    tiles = plan_tiles(height, width, size=size, margin=min(reach(network), size // 4))
    if len(tiles) == 1:
        return network(lr)
    with _means_over_tiles(network) as means:
        _settle(network, lr, tiles, means)
        sr = None
        for tile in tiles:
            part = network(_aimed(means, lr, tile))
            if sr is None:
                sr = part.new_empty((1, part.shape[1], scale * height, scale * width))
            sr[(..., *_scaled(tile.kept, scale))] = part[(..., *_scaled(tile.core, scale))]
    return sr


def _settle(network, lr, tiles, means):
    """Let the network's means become those of the whole image."""
    for _ in range(len(means) + 1):
        for tile in tiles:
            network.body_feature(_aimed(means, lr, tile))
            ran = [mean for mean in means if torch.is_tensor(mean.total)]
            if not ran:  # no gate is applied
                return
        if all([mean.finish_pass(lr[0, 0].numel()) for mean in ran]):
            return


def _aimed(means, lr, tile):
    for mean in means:
        mean.core = tile.core
    return lr[(..., *tile.window)]


@contextlib.contextmanager
def _means_over_tiles(network):
    modules = [module for module in network.modules() if isinstance(module, GlobalMean)]
    for module in modules:
        module.of_tiles = TileMeans()
    try:
        yield [module.of_tiles for module in modules]
    finally:
        for module in modules:
            module.of_tiles = None


def _scaled(slices, scale):
    return tuple(slice(part.start * scale, part.stop * scale) for part in slices)
