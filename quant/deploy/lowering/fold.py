"""Gates for runtimes that can't have them: each becomes the constant factors of its mean over real images."""

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.imresize import imresize
from data.pictures import to_planes, to_values
from metrics.functional import psnr
from model.common import SuperResolver
from quant.deploy.onnx_backend import OnnxNetwork
from quant.methods.ddtb import DualBoundQuantizer

# smaller images say nothing when they are reduced once more
LEAST_SIDE = 24
BEST_DB = 100.0


@dataclass(frozen=True)
class Folded:
    """What `fold_gates` did. bounds: {quantizer: (lower, upper)} of those that had a gate. agreement: luma PSNR in dB
    of the folded network's images to the gated one's. costs: dB lost on each image when it is reduced by the scale and
    enlarged again; those with sides below LEAST_SIDE * scale are left out.
    """

    bounds: dict[str, tuple[float, float]]
    agreement: float
    costs: list[float]

    def told(self, scale: int) -> str:
        """The same in words."""
        cost = f"an unknown cost: no image of --calib has sides of {LEAST_SIDE * scale} pixels"
        if self.costs:
            cost = f"a cost of {statistics.fmean(self.costs):+.3f} dB: luma PSNR on {len(self.costs)} images of " \
                   f"--calib, each reduced by {scale} and enlarged again"
        return f"{len(self.bounds)} gates folded, at {cost}; the images as they are come out {self.agreement:.1f} dB " \
               "from the gated network's"


def gates_in_use(network: nn.Module) -> list[DualBoundQuantizer]:
    """The quantizers of the network that have a gate applied."""
    return [module for module in network.modules() if isinstance(module, DualBoundQuantizer) and module.gated]


@torch.no_grad()
def fold_gates(network: SuperResolver, images: Sequence[Tensor]) -> tuple[SuperResolver, Folded | None]:
    """A copy of a quantized network in evaluation mode whose gates are constant factors, and what that did.

    images: LR images, float32 [1, n_colors, h, w] each, in the network's range. The factors of a gate are the means of
    its beta over the images; the bounds are multiplied by them. Without gates in use: (the network itself, None).
    """
    if not gates_in_use(network):
        return network, None
    folded = copy.deepcopy(network)
    names = {module: name for name, module in network.named_modules()}
    bounds = {}
    for quantizer, (upper, lower) in zip(gates_in_use(network), _mean_factors(network, images), strict=True):
        low, high = quantizer.static_bounds()
        bounds[names[quantizer]] = (low * lower).item(), (high * upper).item()
    set_bounds(folded, bounds)
    agreement = [decibels(network, folded(image), network(image)) for image in images]
    costs = [cost for image in images for cost in _costs(network, folded, image)]
    return folded, Folded(bounds, statistics.fmean(agreement), costs)


def set_bounds(network: nn.Module, bounds: dict[str, tuple[float, float]]) -> None:
    """Give quantizers of a network constant bounds, {name: (lower, upper)}, in place of those and their gates."""
    for name, (lower, upper) in bounds.items():
        quantizer: Any = network.get_submodule(name)
        quantizer.symmetric = False
        quantizer.alpha_lower, quantizer.alpha_upper = (nn.Parameter(torch.tensor([bound])) for bound in (lower, upper))
        quantizer.set_dynamic(False)


def _mean_factors(network, images):
    """[(factor of the upper bound, of the lower)] of each gate: the mean of 2 * sigmoid(logits) over the images."""
    quantizers = gates_in_use(network)
    sums = torch.zeros(len(quantizers), 2, dtype=torch.float64)
    for image in images:
        network(image)
        sums += torch.stack([2 * torch.sigmoid(quantizer.logits.double()).flatten() for quantizer in quantizers])
    return (sums / len(images)).float()


def _costs(network, folded, image):
    """[dB that folding loses on an image that is reduced and enlarged again]; empty where it is too small."""
    scale, rgb_range = network.scale, network.rgb_range
    height, width = (side // scale * scale for side in image.shape[2:])
    if min(height, width) < LEAST_SIDE * scale:
        return []
    hr = image[:, :, :height, :width]
    pixels = (hr[0] * (255 / rgb_range)).round().permute(1, 2, 0).byte().numpy()
    lr = to_values(to_planes(imresize(pixels, 1 / scale)), rgb_range=rgb_range)[None]
    return [decibels(network, network(lr), hr) - decibels(network, folded(lr), hr)]


def decibels(network: SuperResolver | OnnxNetwork, sr: Tensor, hr: Tensor) -> float:
    """Luma PSNR in dB, at most BEST_DB, of the network's image [1, n_colors, h, w] to another, both as 8-bit images."""
    images = (in_8_bits(image, network.rgb_range)[0] for image in (sr, hr))
    return min(psnr(*images, border=network.scale), BEST_DB)


def in_8_bits(image: Tensor, rgb_range: float) -> Tensor:
    """An image in 0..rgb_range as the whole numbers 0..255 that its file holds, float32."""
    return (image * (255 / rgb_range)).round().clamp(0, 255)
