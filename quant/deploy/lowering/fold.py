"""Gates for runtimes that can't have them: each becomes the constant factors of its mean over real images."""

import copy
import logging
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data.imresize import imresize
from data.pictures import to_planes, to_values
from metrics.functional import psnr
from model.common import SuperResolver
from quant.activation import gates_in_use
from quant.deploy.onnx_backend import OnnxNetwork

log = logging.getLogger(__name__)

# smaller images say nothing when they are reduced once more
LEAST_SIDE = 24
BEST_DB = 100.0


@torch.no_grad()
def fold_gates(network: SuperResolver, images: Sequence[Tensor]) \
        -> tuple[SuperResolver, dict[str, tuple[float, float]]]:
    """A copy of a quantized network in evaluation mode whose gates are constant factors, and {quantizer: (lower,
    upper)}, the bounds of those that had a gate. The log says what that costs.

    images: LR images, float32 [1, n_colors, h, w] each, in the network's range. The factors of a gate are the means of
    its beta over the images; the bounds are multiplied by them. Without gates in use: (the network itself, {}).
    """
    gated = gates_in_use(network)
    if not gated:
        log.info("--gates fold: no gate of this network is in use; the file is the same without it")
        return network, {}
    bounds = {}
    for (name, quantizer), (upper, lower) in zip(gated.items(), _mean_factors(network, images), strict=True):
        low, high = quantizer.static_bounds()
        bounds[name] = (low * lower).item(), (high * upper).item()
    folded = copy.deepcopy(network)
    set_bounds(folded, bounds)
    agreement = statistics.fmean(decibels(network, folded(image), network(image)) for image in images)
    log.info("%d gates folded, at %s; the images as they are come out %.1f dB from the gated network's", len(bounds),
             _cost(network, folded, images), agreement)
    return folded, bounds


def set_bounds(network: nn.Module, bounds: dict[str, tuple[float, float]]) -> None:
    """Give quantizers of a network constant bounds, {name: (lower, upper)}, in place of those and their gates."""
    for name, (lower, upper) in bounds.items():
        quantizer: Any = network.get_submodule(name)
        quantizer.symmetric = False
        quantizer.alpha_lower, quantizer.alpha_upper = (nn.Parameter(torch.tensor([bound])) for bound in (lower, upper))
        quantizer.set_dynamic(False)


def _mean_factors(network, images):
    """[(factor of the upper bound, of the lower)] of each gate: the mean of 2 * sigmoid(logits) over the images."""
    quantizers = gates_in_use(network).values()
    sums = torch.zeros(len(quantizers), 2, dtype=torch.float64)
    for image in images:
        network(image)
        sums += torch.stack([2 * torch.sigmoid(quantizer.logits.double()).flatten() for quantizer in quantizers])
    return (sums / len(images)).float()


def _cost(network, folded, images):
    """What folding loses on images that are reduced by the scale and enlarged again, in words."""
    scale, costs = network.scale, []
    for image in images:
        height, width = (side // scale * scale for side in image.shape[2:])
        if min(height, width) < LEAST_SIDE * scale:
            continue
        hr = image[:, :, :height, :width]
        pixels = (hr[0] * (255 / network.rgb_range)).round().permute(1, 2, 0).byte().numpy()
        lr = to_values(to_planes(imresize(pixels, 1 / scale)), rgb_range=network.rgb_range)[None]
        costs.append(decibels(network, network(lr), hr) - decibels(network, folded(lr), hr))
    if not costs:
        return f"an unknown cost: no image of --calib has sides of {LEAST_SIDE * scale} pixels"
    return f"a cost of {statistics.fmean(costs):+.3f} dB: luma PSNR on {len(costs)} images of --calib, each reduced " \
           f"by {scale} and enlarged again"


def decibels(network: SuperResolver | OnnxNetwork, sr: Tensor, hr: Tensor, *, luma: bool = True) -> float:
    """PSNR in dB, at most BEST_DB, of the network's image [1, n_colors, h, w] to another, both as 8-bit images."""
    images = (in_8_bits(image, network.rgb_range)[0] for image in (sr, hr))
    return min(psnr(*images, border=network.scale, luma=luma), BEST_DB)


def in_8_bits(image: Tensor, rgb_range: float) -> Tensor:
    """An image in 0..rgb_range as the whole numbers 0..255 that its file holds, float32."""
    return (image * (255 / rgb_range)).round().clamp(0, 255)
