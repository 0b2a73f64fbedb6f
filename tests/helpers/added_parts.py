"""What somebody adds who follows the README's "How to add": two networks and a quantizer, all in this one file."""

import torch
from torch import nn

from model.common import SuperResolver, conv
from model.registry import NETWORKS, register
from model.settings import SETTINGS, Setting
from model.tiles import GlobalMean
from quant.activation import ActivationQuantizer
from quant.blocks import BLOCKS, RESIDUAL, STAYS_FLOAT
from quant.functional import concatenated
from quant.methods import METHODS, Method, MethodSetting


class ConvReLU(nn.Sequential):
    def __init__(self, n_feats):
        super().__init__(conv(n_feats, n_feats, 3), nn.ReLU())


class ESPCN(SuperResolver):
    """Plain convolutions and a pixel shuffle."""

    UPSAMPLER = ("tail",)

    def __init__(self, *, scale, n_feats=8, n_resblocks=2, n_colors=3):
        super().__init__(scale=scale, n_feats=n_feats, n_resblocks=n_resblocks, n_colors=n_colors)
        self.head = conv(n_colors, n_feats, 5)
        self.body = nn.Sequential(*(ConvReLU(n_feats) for _ in range(n_resblocks)))
        self.tail = nn.Sequential(conv(n_feats, n_colors * scale**2, 3), nn.PixelShuffle(scale))

    def body_feature(self, lr):
        return self.body(torch.tanh(self.head(lr)))

    def upsample(self, feature):
        return self.tail(feature)


class QuantConvReLU(nn.Module):
    def __init__(self, block, config):
        super().__init__()
        self.act = RESIDUAL.act(block[0].in_channels, config)
        self.add_module("0", RESIDUAL.conv(block[0], config))

    def forward(self, x):
        return torch.relu(self.get_submodule("0")(self.act(x)))


class ChannelAttention(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.pool = GlobalMean()
        self.squeeze = conv(n_feats, 2, 1)
        self.excite = conv(2, n_feats, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(self.pool(x)))))


class RCAB(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.conv1, self.conv2 = conv(n_feats, n_feats, 3), conv(n_feats, n_feats, 3)
        self.attention = ChannelAttention(n_feats)

    def forward(self, x):
        return x + self.attention(self.conv2(torch.relu(self.conv1(x))))


class ResidualGroup(nn.Module):
    def __init__(self, n_feats, n_resblocks):
        super().__init__()
        self.blocks = nn.Sequential(*(RCAB(n_feats) for _ in range(n_resblocks)))
        self.last = conv(n_feats, n_feats, 3)

    def forward(self, x):
        return x + self.last(self.blocks(x))


class RCAN(SuperResolver):
    """Groups of blocks with channel attention."""

    UPSAMPLER = ("tail",)

    def __init__(self, *, scale, n_feats=8, n_resblocks=2, n_resgroups=2, n_colors=3):
        super().__init__(scale=scale, n_feats=n_feats, n_resblocks=n_resblocks, n_resgroups=n_resgroups,
                         n_colors=n_colors)
        self.head = conv(n_colors, n_feats, 3)
        self.body = nn.Sequential(*(ResidualGroup(n_feats, n_resblocks) for _ in range(n_resgroups)))
        self.tail = nn.Sequential(conv(n_feats, n_feats * scale**2, 3), nn.PixelShuffle(scale),
                                  conv(n_feats, n_colors, 3))

    def body_feature(self, lr):
        head = self.head(lr)
        return self.body(head) + head

    def upsample(self, feature):
        return self.tail(feature)


class QuantRCAB(nn.Module):
    """Both convolutions in low precision; the attention stays as it is."""

    def __init__(self, block, config):
        super().__init__()
        self.act1, self.act2 = (RESIDUAL.act(block.conv1.in_channels, config) for _ in range(2))
        self.conv1, self.conv2 = RESIDUAL.conv(block.conv1, config), RESIDUAL.conv(block.conv2, config)
        self.attention = block.attention

    def forward(self, x):
        return x + self.attention(self.conv2(self.act2(torch.relu(self.conv1(self.act1(x))))))


class _RoundThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class StepSizeQuantizer(ActivationQuantizer):
    """LSQ's idea: the size of a step is trained, the levels lie around zero."""

    def __init__(self, k_bits, start_step):
        super().__init__(k_bits)
        self.start_step = start_step
        self.step = nn.Parameter(torch.ones(1))

    @classmethod
    def for_feature(cls, channels, k_bits, *, percentile, **settings):
        return cls(k_bits, settings["start_step"])

    def static_bounds(self):
        half = 2 ** (self.k_bits - 1)
        return -half * self.step, (half - 1) * self.step

    def set_bounds(self, x):
        most = 2 ** (self.k_bits - 1) - 1
        self.step.data.copy_(x.abs().max() / most if self.start_step == "largest" else 2 * x.abs().mean() / most**0.5)

    def quantized(self, *parts):
        half = 2 ** (self.k_bits - 1)
        return _RoundThrough.apply((concatenated(parts) / self.step).clamp(-half, half - 1)) * self.step


def add_all():
    """Register everything; a second call changes nothing."""
    if "espcn" in NETWORKS:
        return
    SETTINGS["n_resgroups"] = Setting(int, 2, "groups of blocks (RCAN)", least=1)
    register(ESPCN)
    register(RCAN)
    BLOCKS.update({ConvReLU: QuantConvReLU, RCAB: QuantRCAB})
    STAYS_FLOAT.update({ChannelAttention, ResidualGroup})
    METHODS["stepsize"] = Method(StepSizeQuantizer, "minmax", {
        "start_step": MethodSetting(("mean", "largest"), "stepsize: what of the first batch the step starts from",
                                    for_start=True)})
