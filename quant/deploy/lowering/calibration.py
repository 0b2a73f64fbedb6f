"""What post-training int8 learns from real images: ranges of features, and how the inputs of a convolution vary."""

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.srresnet import SRResNet
from quant.deploy.lowering.layout import Layout, compensated_weight
from quant.deploy.lowering.levels import Range
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
# copies add at most this share of channels; a channel gets one where its weight exceeds the median by this factor
MORE_CHANNELS = 0.125
STANDS_OUT = 2
# powers that are tried: what divides a channel is (its range)**first / (its weight)**second
POWERS = ((0.5, 0.25), (0.75, 0.25), (1, 0))


@dataclass
class Feature:
    """Extremes of a feature's channels over all images, 0 within, [C] each, and its values in some of the pixels."""

    low: Tensor = torch.zeros(1)
    high: Tensor = torch.zeros(1)
    values: list = field(default_factory=list)

    def observe(self, x: Tensor, generator: torch.Generator) -> None:
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
    """Made by `calibrate`.

    range(module): of its output; input_range(conv), means, covariances: of the input of a convolution outside the
    quantized blocks, the means of w and w w^T over its windows w, float64 [I*k*k] and [I*k*k, I*k*k].
    """

    def __init__(self) -> None:
        self.features, self.inputs = {}, {}
        self.means, self.covariances = {}, {}
        self._images = Counter()
        self._generator = torch.Generator().manual_seed(0)

    def range(self, module: nn.Module, factors: np.ndarray | None = None) -> Range:
        """(low, high) of a module's output, 0 included: all of it for a quantizer, else what 8 bits render best.

        factors: [C], by which its channels are divided before. An SRResNet block has the range of its output minus the
        first block's input: what the blocks up to it have added.
        """
        feature = self.features[module]
        return feature.extremes() if isinstance(module, DualBoundQuantizer) else _divided_range(feature, factors)

    def input_range(self, conv: nn.Conv2d, factors: np.ndarray) -> Range:
        """(low, high) of what a convolution outside the blocks reads, its channels divided by factors [C]."""
        return _divided_range(self.inputs[conv], factors)

    def layout(self, following: nn.Conv2d, *terms: nn.Module, repeat: bool = True) -> Layout:
        """How the channels that the convolution `following` reads lie, if `terms` are the modules that they sum up.

        Divided values and multiplied weights fill their grids better (cross-layer equalization, Nagel et al., ICCV
        2019, arXiv 1906.04721), and copies of the channels with the largest weights make both grids finer; of several
        layouts the one with which `following` loses least. Only copies add work to the graph; without `repeat` there
        are none.
        """
        values = torch.maximum(-self.inputs[following].low, self.inputs[following].high)
        weights = following.weight.detach().abs().amax((0, 2, 3))
        sizes, weight_sizes = (one.double().clamp_min(LEAST_SHARE * one.max().item() or 1.0).numpy()
                               for one in (values, weights))
        tried = []
        for power, weight_power in POWERS:
            factors = sizes**power / weight_sizes**weight_power
            more = int(MORE_CHANNELS * len(factors)) if repeat else 0
            tried.append(Layout.of(factors, _copies(weight_sizes * factors, more)))
        return min(tried, key=lambda layout: self._lost(layout, following, terms))

    def _lost(self, layout, following, terms):
        """What `following`'s output loses by rounded values and weights: mean square, summed over its channels."""
        weight, factors = following.weight.detach().double().numpy(), layout.factors
        ranges = [self.input_range(following, factors), *(self.range(term, factors) for term in terms)]
        square = sum(((high - low) / (CODES - 1)) ** 2 for low, high in ranges) / 12
        noise = square * (weight**2).sum((0, 2, 3)) * (factors / layout.copies) ** 2
        rounded = compensated_weight(weight, self.covariances[following], layout)
        levels = layout.sum_copies(rounded.levels) / factors[:, None, None]
        error = (levels * rounded.step[:, None, None, None] - weight).reshape(len(weight), -1)
        return noise.sum() + (error @ self.covariances[following].numpy() * error).sum()

    def covariance_before_shift(self, conv: nn.Conv2d, shift: np.ndarray, one: float) -> Tensor:
        """`covariances` of a convolution as it would be before `shift` [C] was added to its input, float64.

        A further channel is there, `one` everywhere, which carries the shift: [(C+1)*k*k, (C+1)*k*k].
        """
        taps = conv.weight[0, 0].numel()
        moved = torch.from_numpy(np.repeat(shift, taps)).double()
        mean, ones = self.means[conv] - moved, torch.full((taps,), one, dtype=torch.float64)
        # E[(w - m)(w - m)^T] for windows w and the shift m
        own = self.covariances[conv] - torch.outer(self.means[conv], moved) - torch.outer(moved, mean)
        across = torch.outer(mean, ones)
        return torch.cat((torch.cat((own, across), 1), torch.cat((across.T, torch.outer(ones, ones)), 1)))

    def observe_output(self, module: nn.Module, output: Tensor) -> None:
        self.features.setdefault(module, Feature()).observe(output, self._generator)

    def observe_input(self, conv: nn.Conv2d, x: Tensor) -> None:
        self.inputs.setdefault(conv, Feature()).observe(x, self._generator)
        windows = _windows(x, conv.kernel_size[0], self._generator).double()
        self._images[conv] += 1
        for means, of_image in ((self.means, windows.mean(0)), (self.covariances, windows.T @ windows / len(windows))):
            before = means.get(conv, 0)
            means[conv] = before + (of_image - before) / self._images[conv]


def _divided_range(feature, factors):
    return feature.range() if factors is None else feature.range(torch.from_numpy(factors).float())


def _copies(weights, more):
    """How often to have each channel, [C], at most `more` in addition, by the largest weight that it has.

    The steps become finer by as much.
    """
    copies = np.ones(len(weights), np.int64)
    for _ in range(more):
        if (weights / copies).max() < STANDS_OUT * np.median(weights):
            break
        copies[(weights / copies).argmax()] += 1
    return copies


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
            yield module.register_forward_hook(lambda module, _, output: found.observe_output(module, output))
        if isinstance(module, nn.Conv2d) and not isinstance(module, QuantConv2d):
            yield module.register_forward_pre_hook(lambda module, inputs: found.observe_input(module, *inputs))
    if isinstance(network, SRResNet):
        entered = []
        yield network.residual.register_forward_pre_hook(lambda _, inputs: entered.__setitem__(slice(None), inputs))
        for block in network.residual:
            yield block.register_forward_hook(lambda block, _, output: found.observe_output(block, output - entered[0]))
