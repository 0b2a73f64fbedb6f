"""RDN, the residual dense network (Zhang et al., 2018); state-dict keys of the EDSR-PyTorch family."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.common import ImageConv, SuperResolver, conv, convolutions, shuffle_factors

# config: (dense blocks D, convolutions a block C, growth G)
CONFIGS = {"A": (20, 6, 32), "B": (16, 8, 64)}


class DenseConv(nn.Module):
    """x [N, C, h, w] to the concatenation of x and relu(conv(x)), [N, C + growth, h, w]."""

    def __init__(self, in_channels: int, growth: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(in_channels, growth, kernel_size), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(x)), 1)


class DenseBlock(nn.Module):
    """Densely connected convolutions, local fusion by a 1x1 convolution, plus the input."""

    def __init__(self, n_feats: int, growth: int, n_convs: int, kernel_size: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(DenseConv(n_feats + j * growth, growth, kernel_size) for j in range(n_convs)))
        self.LFF = conv(n_feats + n_convs * growth, n_feats, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.LFF(self.convs(x)) + x


class GlobalFusion(nn.Sequential):
    """The outputs of all dense blocks, [N, n_feats, h, w] each, to one feature [N, n_feats, h, w]."""

    def __init__(self, n_feats: int, n_blocks: int, kernel_size: int) -> None:
        super().__init__(conv(n_blocks * n_feats, n_feats, 1), conv(n_feats, n_feats, kernel_size))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return super().forward(torch.cat(list(features), 1))


class RDN(SuperResolver):
    """Config B is the published one (22.3 M parameters at x4). rgb_range: of its images, kept for the record."""

    UPSAMPLER = ("UPNet",)

    def __init__(self, *, scale: int, G0: int = 64, RDNkSize: int = 3, RDNconfig: str = "B", rgb_range: float = 255,
                 n_colors: int = 3) -> None:
        super().__init__(scale=scale, G0=G0, RDNkSize=RDNkSize, RDNconfig=RDNconfig, rgb_range=rgb_range,
                         n_colors=n_colors)
        n_blocks, n_convs, growth = CONFIGS[RDNconfig]
        upsampler, channels = [], G0
        for factor in shuffle_factors(scale):
            upsampler += [conv(channels, growth * factor**2, RDNkSize), nn.PixelShuffle(factor)]
            channels = growth

        self.SFENet1 = conv(n_colors, G0, RDNkSize, kind=ImageConv)
        self.SFENet2 = conv(G0, G0, RDNkSize)
        self.RDBs = nn.ModuleList(DenseBlock(G0, growth, n_convs, RDNkSize) for _ in range(n_blocks))
        self.GFF = GlobalFusion(G0, n_blocks, RDNkSize)
        self.UPNet = nn.Sequential(*upsampler, conv(growth, n_colors, RDNkSize, kind=ImageConv))

    def interpolation_layers(self) -> tuple[nn.Conv2d, nn.Module, list[nn.Conv2d]]:
        return self.SFENet1, self.GFF[1], convolutions(self.UPNet)

    def body_feature(self, lr: Tensor) -> Tensor:
        shallow = self.SFENet1(lr)
        x = self.SFENet2(shallow)
        features = []
        for block in self.RDBs:
            x = block(x)
            features.append(x)
        return self.GFF(features) + shallow

    def upsample(self, feature: Tensor) -> Tensor:
        return self.UPNet(feature)
