"""Pieces that more than one network is made of."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from model.settings import SETTINGS
from utility import UserError

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
# {module: what it computed of its weights}, within `constant_weights`
KEPT: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("KEPT", default=None)


def conv(in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True,
         kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    """A convolution that keeps height and width (`same` zero padding); kind: its class, such as ImageConv."""
    return kind(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)


class ImageConv(nn.Conv2d):
    """A convolution that reads or makes an image with its mean colour; float32 under autocast too.

    Weights in 16 bit are off by a share that does not average out over a plane: RDN's images moved by up to one grey
    level in bfloat16, by up to 0.1 with this.
    """

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x.device):
            return super().forward(x.to(self.weight.dtype))


def mean_colour(n_colors: int) -> torch.Tensor:
    """The mean of DIV2K's pixels, [n_colors] in 0..1; with one colour that of the three channels."""
    return torch.tensor(DIV2K_MEAN if n_colors == 3 else [sum(DIV2K_MEAN) / 3] * n_colors)


class MeanShift(ImageConv):
    """Add `sign * rgb_range * mean_colour` to an image [N, n_colors, h, w]; a fixed 1x1 convolution, for its keys."""

    def __init__(self, *, rgb_range: float, n_colors: int = 3, sign: int = -1) -> None:
        super().__init__(n_colors, n_colors, kernel_size=1)
        self.weight.data = torch.eye(n_colors).view(n_colors, n_colors, 1, 1)
        self.bias = nn.Parameter(sign * rgb_range * mean_colour(n_colors))
        self.requires_grad_(False)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Context without mixed precision; on a device that has none, such as `meta`, it does nothing."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def constant_weights() -> Iterator[None]:
    """While the block runs no weights change, so modules may keep, in KEPT, what they compute from them.

    The caller promises this: a write through `weight.data`, as weight averaging does it, cannot be detected.
    """
    outer = KEPT.get()
    token = KEPT.set({} if outer is None else outer)
    try:
        yield
    finally:
        KEPT.reset(token)


def shuffle_factors(scale: int) -> list[int]:
    """The pixel shuffles that make `scale`: [2, 2] for 4, [scale] for 2 and 3. Raises ValueError for any other."""
    if scale not in (2, 3, 4):
        raise ValueError(f"scale {scale}: the networks know 2, 3 and 4")
    return [2, 2] if scale == 4 else [scale]


def convolutions(*modules: nn.Module) -> list[nn.Conv2d]:
    """The convolutions in the modules, in order."""
    return [part for module in modules for part in module.modules() if isinstance(part, nn.Conv2d)]


def compiled(function: Callable, compiler: str | None) -> Callable:
    """A part of the training step through torch.compile, or unchanged where `compiler` is None.

    compiler: the name of torch.compile's backend. It compiles once for each phase of training, when that begins.
    """
    return function if compiler is None else torch.compile(function, backend=compiler)


def unwrapped(network: Any) -> Any:
    """The network in torch.compile's wrapper, or the network itself."""
    return getattr(network, "_orig_mod", network)


def compiler_lacks(error: Exception) -> str:
    """What torch.compile misses on this machine, in a line; empty where an error tells of something else."""
    found = re.search(r"No working C\+\+ compiler found|[^\n]*\btriton\b[^\n]*", str(error), re.IGNORECASE)
    return found[0].strip() if found else ""


class SuperResolver(nn.Module):
    """Base class of the networks: a body makes features, an upsampler makes the image from them.

    Images are float32 [N, n_colors, h, w] in 0..rgb_range, features [N, n_feats, h, w]; the output is
    [N, n_colors, scale*h, scale*w]. `settings` holds the constructor's arguments, so that a checkpoint can rebuild it;
    ValueError is raised for one that can't work. All tensors that it keeps are in its state dict: quant.open makes it
    without memory, and fills it from a file.
    `UPSAMPLER` names the modules whose convolutions `upsample` is made of, without which no image is tested in tiles.
    A subclass defines `body_feature` and `upsample`; one with a `forward` of its own is neither tested in tiles nor
    quantized in training, which call these two.
    """

    UPSAMPLER: tuple[str, ...] = ()

    # what the file that the network was opened from says (quant.open), None for a new one
    source: Any = None
    # how it is quantized: the QuantConfig that quant.quantize was given
    quant_config: Any

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        for name, value in settings.items():
            if name in SETTINGS and (problem := SETTINGS[name].problem(value)):
                raise ValueError(f"{name} {value!r:.40}: {problem}")
        self.settings = settings
        self.scale = settings["scale"]
        self.n_colors = settings.get("n_colors", 3)
        self.rgb_range = settings.get("rgb_range", 255)

    def train(self, mode: bool = True) -> "SuperResolver":
        """As torch's; where a module refuses, as those of packed files do, all of them stay as they were."""
        before = {module: module.training for module in self.modules()}
        try:
            return super().train(mode)
        except Exception:
            for module, training in before.items():
                module.training = training
            raise

    def check_parts(self) -> None:
        """Raise TypeError where `body_feature` and `upsample` may not be all that the network does to an image."""
        for name in ("forward", "forward_features"):
            if getattr(type(self), name) is not getattr(SuperResolver, name):
                raise TypeError(f"{type(self).__name__}: has a {name} of its own, which tiles and quantized training "
                                "would leave out; put it into body_feature and upsample")

    def in_upsampler(self, name: str) -> bool:
        """Whether a tensor of the state dict belongs to the upsampler."""
        return name.partition(".")[0] in self.UPSAMPLER

    @staticmethod
    def rgb_range_of(state: Mapping[str, Tensor]) -> float | None:
        """The rgb_range that the weights of a state dict were made for, or None where they don't tell."""
        return None

    def interpolation_layers(self) -> tuple[nn.Conv2d, nn.Module, list[nn.Conv2d]]:
        """(first convolution, what the body ends in before its skip is added, the upsampler's convolutions).

        For `--init interpolation`. Raises UserError where a network does not say it.
        """
        raise UserError(f"--init interpolation: {type(self).__name__} has no such start; leave it out")

    def body_feature(self, lr: Tensor) -> Tensor:
        """Image to body feature, the tensor that enters the upsampler and that attention transfer compares."""
        raise NotImplementedError

    def upsample(self, feature: Tensor) -> Tensor:
        """Body feature to image."""
        raise NotImplementedError

    def forward_features(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Give (sr, body feature)."""
        feature = self.body_feature(lr)
        return self.upsample(feature), feature

    def forward(self, lr: Tensor) -> Tensor:
        """Give sr."""
        return self.upsample(self.body_feature(lr))
