"""Large images in overlapping tiles: the whole image's result, in a memory that the size of a tile bounds.

The body computes its feature first, for the whole image: that takes no more memory than the output image. The
upsampler, which needs most of the memory, then passes over the feature in tiles. A body that would need more than the
upsampler for a tile passes in tiles too, of its own size.

A tile is computed with a margin of neighbours around the core that is kept of it. With a margin as wide as the modules
can see, the core is the whole image's result. Means over the whole image (GlobalMean, in the gates of dynamic
quantizers) take several passes over all tiles, each with the means of the pass before, until they stay the same: the
first gate has its true mean after one pass, the second, which depends on the first, after two, and so on. Gates round
their input, so a nearly right mean gives the exact result, and a wrong one a visible error: a trained 4-bit EDSR x4
with 14 gates is 50 dB from the whole image's result with the means of 2 passes, 84 dB with those of 6.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.common import SuperResolver, convolutions, unwrapped

# a margin is cut to a quarter of its tile, or little of a tile would be kept
MARGINS_A_TILE = 4
# means that agree to this are the same but for the order of a sum
SETTLED = 1e-6
# LR pixels a side; a body's tile of so many takes little memory, and has room for EDSR's and SRResNet's margins
EXACT_AT_MOST = 288
# {GlobalMean: its TileMeans} while an image passes in tiles: of this thread's image, as threads may share a network
OF_TILES: ContextVar[dict[nn.Module, Any] | None] = ContextVar("OF_TILES", default=None)


class GlobalMean(nn.Module):
    """A feature [N, C, h, w] to its mean over the image, [N, C, 1, 1]; also where it is one of an image's tiles.

    The feature comes whole, or in parts that would be concatenated over channels.
    """

    def forward(self, *parts: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and (means := OF_TILES.get()) is not None:
            return means[self].see(torch.cat(parts, 1))
        return torch.cat([F.adaptive_avg_pool2d(part, 1) for part in parts], 1)


class TileMeans:
    """Adds up what one GlobalMean sees of each tile's core, and returns the mean found by the previous pass.

    In the first pass, when there is none, the tile's own mean stands in.
    """

    def __init__(self) -> None:
        self.mean: Any = None
        self.total: Any = 0
        self.core: tuple[slice, ...] = ()

    def see(self, x: Tensor) -> Tensor:
        """x: the feature of a tile, [1, C, h, w]; `core` says which part of it counts. Returns [1, C, 1, 1]."""
        rows, columns = self.core
        part = x[..., rows, columns].sum((2, 3), keepdim=True)
        self.total = self.total + part
        return F.adaptive_avg_pool2d(x, 1) if self.mean is None else self.mean

    def finish_pass(self, pixels: int) -> bool:
        """Take the mean over so many pixels as known; returns whether it is the one that was known before."""
        before, self.mean = self.mean, self.total / pixels
        self.total = 0
        return before is not None and torch.allclose(before, self.mean, rtol=SETTLED, atol=SETTLED * before.abs().max())


@dataclass(frozen=True)
class Tile:
    """Slices (rows, columns): `window` and `kept` of the image, `core`: the same part, in coordinates of the window."""

    window: tuple
    core: tuple
    kept: tuple


def plan_tiles(height: int, width: int, *, size: int, margin: int) -> list[Tile]:
    """Tiles of up to size x size whose kept parts cover an image once, margin (a quarter of size at most) off edges."""
    rows, columns = (_spans(length, size, min(margin, size // MARGINS_A_TILE)) for length in (height, width))
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


def reach(modules: Iterable[nn.Module]) -> int:
    """How many pixels around a pixel these modules in a row can see, at most: half a kernel for each convolution."""
    return sum(conv.kernel_size[0] // 2 for conv in convolutions(*modules))


def in_tiles(network: SuperResolver, lr: Tensor, *, scale: int, size: int) -> Tensor:
    """network(lr) for one image [1, C, h, w], upsampled in tiles of size x size LR pixels, or what margins need.

    Margins are the reach of what passes in tiles, but a quarter of a tile at most: where a body has to pass in tiles
    and sees farther (RDN), the result is close, not equal. Raises TypeError for a network with a forward of its own.
    """
    network = unwrapped(network)  # torch.compile's takes whole images alone
    network.check_parts()
    upsampler = [module for name, module in network.named_children() if name in network.UPSAMPLER]
    body = [module for name, module in network.named_children() if name not in network.UPSAMPLER]
    size = max(size, MARGINS_A_TILE * reach(upsampler))
    feature = _body_feature(network, lr, size=_body_size(body, upsampler, scale, size), reach=reach(body))
    tiles = plan_tiles(*feature.shape[2:], size=size, margin=reach(upsampler))
    return assembled(lambda tile: network.upsample(feature[(..., *tile.window)]), tiles, feature.shape, scale)


def _body_size(body, upsampler, scale, size):
    """The tile at which the body's widest feature has as many values as the upsampler's of a tile of `size`.

    It is larger where margins need that, up to EXACT_AT_MOST.
    """
    widest = max(conv.in_channels for conv in convolutions(*body))
    margins = MARGINS_A_TILE * reach(body)
    return max(size, math.isqrt((size * scale) ** 2 * convolutions(*upsampler)[-1].in_channels // widest),
               margins if margins <= EXACT_AT_MOST else 0)


def assembled(function: Callable[[Tile], Tensor], tiles: Sequence[Tile], shape: Sequence[int],
              scale: int = 1) -> Tensor:
    """One image of `scale` times the height and width in `shape`, [1, C, h, w], from function(tile) of every tile."""
    if len(tiles) == 1:
        return function(tiles[0])
    whole: Any = None
    for tile in tiles:
        part = function(tile)
        if whole is None:
            whole = part.new_empty((1, part.shape[1], scale * shape[2], scale * shape[3]))
        whole[(..., *_scaled(tile.kept, scale))] = part[(..., *_scaled(tile.core, scale))]
    return whole


def _body_feature(network, lr, *, size, reach):
    """network.body_feature(lr), in as many passes over the tiles as it takes to settle the network's means."""
    tiles = plan_tiles(*lr.shape[2:], size=size, margin=reach)
    if len(tiles) == 1:
        return network.body_feature(lr)
    means = {module: TileMeans() for module in network.modules() if isinstance(module, GlobalMean)}

    def body_feature(tile):
        for mean in means.values():
            mean.core = tile.core
        return network.body_feature(lr[(..., *tile.window)])

    token = OF_TILES.set(means)
    try:
        for _ in range(len(means) + 1):
            feature = assembled(body_feature, tiles, lr.shape)
            ran = [mean for mean in means.values() if torch.is_tensor(mean.total)]
            if all([mean.finish_pass(lr[0, 0].numel()) for mean in ran]):
                break
        return feature
    finally:
        OF_TILES.reset(token)


def _scaled(slices, scale):
    return tuple(slice(part.start * scale, part.stop * scale) for part in slices)
