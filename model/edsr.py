"""EDSR (Lim et al., 2017); state-dict keys of the EDSR-PyTorch family."""

from collections.abc import Mapping

from torch import Tensor, nn

from model.common import MeanShift, SuperResolver, conv, convolutions, mean_colour, shuffle_factors


class ResBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))), on [N, n_feats, h, w]."""

    def __init__(self, n_feats: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(n_feats, n_feats, 3), nn.ReLU(inplace=True), conv(n_feats, n_feats, 3))
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        return x + (residual if self.res_scale == 1 else residual * self.res_scale)


class EDSR(SuperResolver):
    """16 blocks of 64 features are the baseline network (1.5 M parameters), 32 of 256 the large one."""

    UPSAMPLER = ("tail",)

    def __init__(self, *, scale: int, n_resblocks: int = 16, n_feats: int = 64, res_scale: float = 1.0,
                 rgb_range: float = 255, n_colors: int = 3) -> None:
        super().__init__(scale=scale, n_resblocks=n_resblocks, n_feats=n_feats, res_scale=res_scale,
                         rgb_range=rgb_range, n_colors=n_colors)
        upsampler = []
        for factor in shuffle_factors(scale):
            upsampler += [conv(n_feats, n_feats * factor**2, 3), nn.PixelShuffle(factor)]

        self.sub_mean = MeanShift(rgb_range=rgb_range, n_colors=n_colors, sign=-1)
        self.add_mean = MeanShift(rgb_range=rgb_range, n_colors=n_colors, sign=1)
        self.head = nn.Sequential(conv(n_colors, n_feats, 3))
        blocks = [ResBlock(n_feats, res_scale) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv(n_feats, n_feats, 3))
        self.tail = nn.Sequential(nn.Sequential(*upsampler), conv(n_feats, n_colors, 3))

    @staticmethod
    def rgb_range_of(state: Mapping[str, Tensor]) -> float | None:
        """What the mean that is subtracted belongs to; None where it is not DIV2K's, whatever the range."""
        bias = state.get("sub_mean.bias")
        if bias is None or bias.dim() != 1 or len(bias) not in (1, 3):
            return None
        ratios = -bias.double() / mean_colour(len(bias))
        found = ratios.mean().item()
        if found <= 0 or (ratios / found - 1).abs().max() > 0.02:
            return None
        whole = round(found)
        return whole if abs(found - whole) < 0.01 * found else float(f"{found:.3g}")

    def interpolation_layers(self) -> tuple[nn.Conv2d, nn.Module, list[nn.Conv2d]]:
        return convolutions(self.head)[0], self.body[-1], convolutions(self.tail)

    def body_feature(self, lr: Tensor) -> Tensor:
        head = self.head(self.sub_mean(lr))
        return self.body(head) + head

    def upsample(self, feature: Tensor) -> Tensor:
        return self.add_mean(self.tail(feature))
