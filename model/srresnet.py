"""SRResNet with batch normalisation (Ledig et al., 2017)."""

import math

from torch import Tensor, nn

from model.common import ImageConv, SuperResolver, conv, convolutions, shuffle_factors
from model.norm import BatchNorm2d


class BNResBlock(nn.Module):
    """x + bn(conv(prelu(bn(conv(x))))), on [N, n_feats, h, w]."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.conv1 = conv(n_feats, n_feats, 3, bias=False)
        self.in1 = BatchNorm2d(n_feats)
        self.relu = nn.PReLU()
        self.conv2 = conv(n_feats, n_feats, 3, bias=False)
        self.in2 = BatchNorm2d(n_feats)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.in1(self.conv1(x)))
        return self.in2(self.conv2(hidden)) + x


class SRResNet(SuperResolver):
    """The command line's `srresnet` and `bnsrresnet`: 16 blocks, 64 features, 1.55 M parameters at x4.

    rgb_range: of its images, kept for the record.
    """

    UPSAMPLER = ("upscale", "conv_output")

    def __init__(self, *, scale: int, n_resblocks: int = 16, n_feats: int = 64, rgb_range: float = 255,
                 n_colors: int = 3) -> None:
        super().__init__(scale=scale, n_resblocks=n_resblocks, n_feats=n_feats, rgb_range=rgb_range, n_colors=n_colors)
        upsampler = []
        for factor in shuffle_factors(scale):
            upsampler += [conv(n_feats, n_feats * factor**2, 3, bias=False), nn.PixelShuffle(factor), nn.PReLU()]

        self.conv_input = conv(n_colors, n_feats, 9, bias=False, kind=ImageConv)
        self.relu = nn.PReLU()
        self.residual = nn.Sequential(*(BNResBlock(n_feats) for _ in range(n_resblocks)))
        self.conv_mid = conv(n_feats, n_feats, 3, bias=False)
        self.bn_mid = BatchNorm2d(n_feats)
        self.upscale = nn.Sequential(*upsampler)
        # no ImageConv: in float32 it would make a training step in bfloat16 1.4 times as long
        self.conv_output = conv(n_feats, n_colors, 9, bias=False)
        for module in convolutions(self):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0, math.sqrt(2 / (height * width * module.out_channels)))

    def interpolation_layers(self) -> tuple[nn.Conv2d, nn.Module, list[nn.Conv2d]]:
        return self.conv_input, self.bn_mid, convolutions(self.upscale, self.conv_output)

    def body_feature(self, lr: Tensor) -> Tensor:
        head = self.relu(self.conv_input(lr))
        return self.bn_mid(self.conv_mid(self.residual(head))) + head

    def upsample(self, feature: Tensor) -> Tensor:
        return self.conv_output(self.upscale(feature))
