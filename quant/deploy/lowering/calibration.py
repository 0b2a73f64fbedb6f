"""What post-training int8 learns from real images: ranges of features, and how the inputs of a convolution vary."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.srresnet import SRResNet
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import QuantConv2d

RECORDED = (nn.Conv2d, nn.BatchNorm2d, nn.PReLU, DualBoundQuantizer)
VALUES_AN_IMAGE = 16384
# of the windows that a convolution sees in an image so many values are looked at
WINDOW_VALUES = 2**21
# shares of the whole range that are tried for a grid
SHARES = torch.linspace(1, 0.3, 29)
CODES = 256
# channels that are all but empty count as so much of the largest
LEAST_SHARE = 1e-3


@dataclass
class Feature:
    """Extremes of a feature's channels over all images, 0 within, [C] each, and its values in some of the pixels."""

    low: Tensor = torch.zeros(1)
    high: Tensor = torch.zeros(1)
    values: list = field(default_factory=list)

    def see(self, x: Tensor, generator: torch.Generator) -> None:
        """Take note of one image's feature, [1, C, h, w]."""
        pixels = x[0].flatten(1)
        self.low, self.high = self.low.minimum(pixels.amin(1)), self.high.maximum(pixels.amax(1))
        count = max(VALUES_AN_IMAGE // len(pixels), 1)
        self.values.append(pixels[:, torch.randint(pixels.shape[1], (count,), generator=generator)].T)

    def extremes(self) -> tuple[float, float]:
        """The least and the largest value."""
        return self.low.min().item(), self.high.max().item()

    def range(self, factors: Tensor | float = 1.0) -> tuple[float, float]:
        """(low, high), 0 within, the part of the range over which 256 codes lose the least (mean square).

        factors: [C], by which channels are divided before. Where a few values lie far out, clipping them costs less
        than the wider steps that they ask for.
        """
        values = (torch.cat(self.values) / factors).flatten()
        low, high = (self.low / factors).min().item(), (self.high / factors).max().item()
        steps = ((high - low) * SHARES / (CODES - 1)).clamp_min(1e-12).unsqueeze(1)
        zero = torch.round(-low * SHARES.unsqueeze(1) / steps)
        restored = (torch.clamp(torch.round(values / steps) + zero, 0, CODES - 1) - zero) * steps
        share = SHARES[(restored - values).square().mean(1).argmin()].item()
        return low * share, high * share


class Calibration:
    """Made by `calibrate`. range(module): of its output. covariances: {convolution outside the quantized blocks:
    mean of w w^T over its input windows w, float64 [I*k*k, I*k*k]}."""

    def __init__(self) -> None:
        self.features = {}
        self.covariances = {}
        self._generator = torch.Generator().manual_seed(0)

    def range(self, module: nn.Module, factors: np.ndarray | None = None) -> tuple[float, float]:
        """(low, high) of a module's output, 0 included: all of it for a quantizer, else what 8 bits render best.

        factors: [C], by which its channels are divided before. Of one of SRResNet's blocks: of what the blocks have
        added up to its end, its output minus the first's input.
        """
        feature = self.features[module]
        if isinstance(module, DualBoundQuantizer):
            return feature.extremes()
        return feature.range(1.0 if factors is None else torch.from_numpy(factors).float())

    def channel_factors(self, following: nn.Conv2d, *modules: nn.Module) -> np.ndarray:
        """By what to divide the channels of the sum of modules' outputs before the convolution `following`, [C].

        Cross-layer equalization (Nagel et al., ICCV 2019, arXiv 1906.04721): divided values and multiplied weights fill
        their grids better, and weights do both, nothing is added to the graph. It takes sqrt(range / weight); here the
        weight counts half as much, which loses less. Where a pixel shuffle lies between, the channels are those behind
        it.
        """
        features = [self.features[module] for module in modules]
        values = torch.stack([torch.maximum(-feature.low, feature.high) for feature in features]).sum(0)
        values = values.view(following.in_channels, -1).amax(1)
        weights = following.weight.detach().abs().amax((0, 2, 3))
        values, weights = (one.double().clamp_min(LEAST_SHARE * one.max().item() or 1.0) for one in (values, weights))
        return (values / weights.sqrt()).sqrt().numpy()

    def see_output(self, module: nn.Module, output: Tensor) -> None:
        self.features.setdefault(module, Feature()).see(output, self._generator)

    def see_input(self, conv: nn.Conv2d, x: Tensor) -> None:
        windows = _windows(x, conv.kernel_size[0], self._generator).double()
        self.covariances[conv] = self.covariances.get(conv, 0) + windows.T @ windows / len(windows)


def _windows(x, size, generator):
    """Some of the windows that a convolution with `same` padding sees of x [1, C, h, w]; [count, C*size*size]."""
    _, channels, height, width = x.shape
    padded = F.pad(x[0], [size // 2] * 4)
    count = max(WINDOW_VALUES // (channels * size**2), 1)
    rows, columns = (torch.randint(length, (count,), generator=generator) for length in (height, width))
    taps = [padded[:, rows + i, columns + j] for i in range(size) for j in range(size)]
    return torch.stack(taps, 1).reshape(channels * size * size, -1).T


@torch.no_grad()
def calibrate(network: nn.Module, images: Iterable[Tensor]) -> Calibration:
    """The Calibration of a quantized network in evaluation mode on LR images, float32 [1, n_colors, h, w] each."""
    found = Calibration()
    with contextlib.ExitStack() as hooks:
        for handle in _hooks(network, found):
            hooks.callback(handle.remove)
        for image in images:
            network(image)
    return found


def _hooks(network, found):
    for name, module in network.named_modules():
        if ".gate." in name:
            continue
        if isinstance(module, RECORDED):
            yield module.register_forward_hook(lambda module, _, output: found.see_output(module, output))
        if isinstance(module, nn.Conv2d) and not isinstance(module, QuantConv2d):
            yield module.register_forward_pre_hook(lambda module, inputs: found.see_input(module, *inputs))
    if isinstance(network, SRResNet):
        entered = []
        yield network.residual.register_forward_pre_hook(lambda _, inputs: entered.__setitem__(slice(None), inputs))
        for block in network.residual:
            yield block.register_forward_hook(lambda block, _, output: found.see_output(block, output - entered[0]))
