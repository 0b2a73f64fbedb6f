"""The network that tells real patches from generated ones (SRGAN, arXiv 1609.04802, figure 4)."""

from torch import Tensor, nn

DEPTH = 7
N_FEATS = 64
HIDDEN = 1024
MIN_PATCH = 17  # smaller patches end as one pixel, on which a batch of one has no BatchNorm statistics


class Discriminator(nn.Module):
    """Eight conv3x3-BN-LeakyReLU layers, then two fully connected ones. patch_size: side in pixels, MIN_PATCH or more.

    Every other layer halves the side (odd ones rounded up), the ones between double the channels: 512 at the end.
    """

    def __init__(self, *, patch_size: int) -> None:
        super().__init__()
        layers, channels, side = [_layer(3, N_FEATS, stride=1)], N_FEATS, patch_size
        for index in range(DEPTH):
            if index % 2 == 0:
                layers.append(_layer(channels, channels, stride=2))
                side = (side + 1) // 2
            else:
                layers.append(_layer(channels, 2 * channels, stride=1))
                channels *= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(channels * side**2, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))

    def forward(self, image: Tensor) -> Tensor:
        """image: [N, 3, patch_size, patch_size] in 0..1. Returns logits [N, 1], above 0: taken for real."""
        return self.classifier(self.features(image).flatten(1))


def _layer(in_channels, out_channels, *, stride):
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2, inplace=True))
