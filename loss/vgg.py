"""Perceptual loss: the distance between VGG19's features of two images."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOL = 0
WIDTHS = (64, 64, POOL, 128, 128, POOL, *4 * (256,), POOL, *4 * (512,), POOL, *4 * (512,))  # VGG19's, outputs
DEPTHS = {"VGG22": 8, "VGG54": 35}  # layers of torchvision's `features`: up to conv2_2 and conv5_4, before their ReLU
MIN_PATCH = {"VGG22": 2, "VGG54": 16}  # one and four pools of 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of images in 0..1


def conv_shapes() -> dict[int, torch.Size]:
    """{position in torchvision's VGG19 `features`: [out, in, 3, 3]} of the convolutions; a ReLU follows each."""
    shapes, position, channels = {}, 0, 3
    for width in WIDTHS:
        if width == POOL:
            position += 1
        else:
            shapes[position] = torch.Size((width, channels, 3, 3))
            position, channels = position + 2, width
    return shapes


class VGGLoss(nn.Module):
    """Mean squared difference of VGG19 features (SRGAN, arXiv 1609.04802, equation 5; before the ReLU, as in ESRGAN).

    name: VGG22 or VGG54, the layer. state: torchvision's state dict of VGG19, of which the layers up to `name` are
    used (loss.vgg_weights reads one).
    """

    def __init__(self, name: str, state: Mapping[str, Tensor], *, rgb_range: float) -> None:
        super().__init__()
        self.rgb_range = rgb_range
        self.features = nn.Sequential(*_layers(state, DEPTHS[name]))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """sr, hr: float32 [N, 3 or 1, h, w] in 0..rgb_range, hr detached. Returns a scalar."""
        return F.mse_loss(self._look(sr), self._look(hr))

    def _look(self, image):
        return self.features((image / self.rgb_range - self.mean) / self.std)


class FrozenConv(nn.Module):
    """A 3x3 convolution that never trains: its buffers are found by no optimizer and repeated in no checkpoint."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, in, h, w]. Returns [N, out, h, w]."""
        return F.conv2d(x, self.weight, self.bias, padding=1)


def _layers(state, depth):
    convs = conv_shapes()
    for position in range(depth):
        if position in convs:
            yield FrozenConv(state[f"features.{position}.weight"], state[f"features.{position}.bias"])
        elif position - 1 in convs:
            yield nn.ReLU(inplace=True)
        else:
            yield nn.MaxPool2d(2)
