"""The quantized form of each float block (spec, section 2): which convolution and which feature is quantized.

To add a network: write its block here and register it in BLOCKS beside the float class it stands for. A block takes
over the float block's Parameters, under the same names.
"""

from dataclasses import dataclass

from torch import nn

from model.edsr import ResBlock
from model.rdn import DenseBlock, GlobalFusion
from model.srresnet import BNResBlock
from quant.activation import DualBoundQuantizer
from quant.functional import check_bits
from quant.methods import METHODS
from quant.weight import QuantConv2d

CHOICES = {"init_bounds": ("percentile", "calibrated", "released"), "quantizer": ("ddtb", *METHODS),
           "bounds": ("dual", "symmetric")}


@dataclass(frozen=True)
class QuantConfig:
    """k_bits: 2..8, for weights and activations. quantizer: 'ddtb' or one of quant.methods.

    skip_bits: 2..8, for features that feed a sum and no convolution; 0: k_bits, as published.
    For ddtb alone: init_bounds, 'percentile', 'calibrated' or 'released' (DualBoundQuantizer); bounds, 'dual' or, an
    ablation, 'symmetric'. Raises ValueError for other values.
    """

    k_bits: int
    init_bounds: str = "percentile"
    quantizer: str = "ddtb"
    bounds: str = "dual"
    skip_bits: int = 0

    def __post_init__(self):
        check_bits(self.k_bits)
        check_bits(self.skip_bits or self.k_bits)
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)}: choose {', '.join(values)}")

    @classmethod
    def of(cls, options):
        """The configuration that parsed options name."""
        skip_bits = 0 if options.skip_bits == options.k_bits else options.skip_bits
        return cls(options.k_bits, options.init_bounds, options.quantizer, options.bounds, skip_bits)

    @property
    def sum_bits(self):
        """Bits of the features that feed a sum."""
        return self.skip_bits or self.k_bits


@dataclass(frozen=True)
class Recipe:
    """What differs between networks.

    weight_quantizer: the name of DDTB's. percentile: M, where bounds start from. calibrates_quantized: whether weights
    are quantized while the ranges are recorded already (measured: so does the release's RDN, the others do not).
    keeps_operands: convolutions keep their quantized inputs for backward: in dense blocks the quantizer that follows
    reads and keeps the same ones.
    """

    weight_quantizer: str
    percentile: float
    calibrates_quantized: bool
    keeps_operands: bool

    def conv(self, conv, config):
        """The quantized form of one convolution."""
        method = METHODS.get(config.quantizer)
        weight_quantizer = method.weight if method else self.weight_quantizer
        return QuantConv2d(conv, config.k_bits, weight_quantizer, calibrates_quantized=self.calibrates_quantized,
                           keeps_operands=self.keeps_operands)

    def act(self, channels, config, bits=None):
        """A quantizer for a feature of so many channels; bits: config.k_bits where not given."""
        bits = bits or config.k_bits
        if config.quantizer in METHODS:
            return METHODS[config.quantizer].activation(bits)
        return DualBoundQuantizer(channels, bits, percentile=self.percentile, init_bounds=config.init_bounds,
                                  symmetric=config.bounds == "symmetric")


RESIDUAL = Recipe("percentile", 99, calibrates_quantized=False, keeps_operands=False)
DENSE = Recipe("minmax", 95, calibrates_quantized=True, keeps_operands=True)


class QuantResBlock(nn.Module):
    """EDSR: the skip, conv 2's input and the residual are quantized; conv 1 reads the block's input as it comes."""

    def __init__(self, block, config):
        super().__init__()
        conv1, relu, conv2 = block.body
        self.act1 = RESIDUAL.act(conv1.in_channels, config, config.sum_bits)
        self.act2 = RESIDUAL.act(conv2.in_channels, config)
        self.act3 = RESIDUAL.act(conv2.out_channels, config, config.sum_bits)
        self.body = nn.Sequential(RESIDUAL.conv(conv1, config), relu, RESIDUAL.conv(conv2, config))
        self.res_scale = block.res_scale

    def forward(self, x):
        conv1, relu, conv2 = self.body
        residual = conv2(self.act2(relu(conv1(x))))
        if self.res_scale != 1:
            residual = residual * self.res_scale
        return self.act3(residual) + self.act1(x)


class QuantBNResBlock(nn.Module):
    """SRResNet: the inputs of both convolutions are quantized, the skip is not."""

    def __init__(self, block, config):
        super().__init__()
        self.conv1, self.in1, self.relu = RESIDUAL.conv(block.conv1, config), block.in1, block.relu
        self.conv2, self.in2 = RESIDUAL.conv(block.conv2, config), block.in2
        self.act1 = RESIDUAL.act(self.conv1.in_channels, config)
        self.act2 = RESIDUAL.act(self.conv2.in_channels, config)

    def forward(self, x):
        hidden = self.relu(self.in1(self.conv1(self.act1(x))))
        return self.in2(self.conv2(self.act2(hidden))) + x


class QuantDenseConv(nn.Module):
    """(a, b, ..) to (y, relu(conv(y))), y the quantized concatenation of a, b, ..; the first of a block has no act.

    The concatenation itself, the float block's result, is never made: the next act and its backward read the parts.
    """

    def __init__(self, block, config, *, first):
        super().__init__()
        conv, relu = block.conv
        self.conv = nn.Sequential(DENSE.conv(conv, config), relu)
        self.act = nn.Identity() if first else DENSE.act(conv.in_channels, config)

    def forward(self, parts):
        x = self.act(*parts)
        return x, self.conv(x)


class QuantDenseBlock(nn.Module):
    """RDN: the block's input, every later convolution's input and the local fusion's are quantized.

    As published the residual is the quantized input too; with other bits for sums it has its own quantizer, `skip`.
    """

    def __init__(self, block, config):
        super().__init__()
        self.convs = nn.Sequential(*(QuantDenseConv(c, config, first=j == 0) for j, c in enumerate(block.convs)))
        channels = block.convs[0].conv[0].in_channels
        self.act1 = DENSE.act(channels, config)
        self.act2 = DENSE.act(block.LFF.in_channels, config)
        self.LFF = DENSE.conv(block.LFF, config)
        self.skip = None if config.sum_bits == config.k_bits else DENSE.act(channels, config, config.sum_bits)

    def forward(self, x):
        first = self.act1(x)
        kept = first if self.skip is None else self.skip(x)
        return self.LFF(self.act2(*self.convs((first,)))) + kept


class QuantGlobalFusion(nn.Sequential):
    """RDN: the concatenation of all block outputs is quantized; the 3x3 convolution reads the 1x1's output as it is."""

    def __init__(self, block, config):
        super().__init__(*(DENSE.conv(conv, config) for conv in block))
        self.act = DENSE.act(block[0].in_channels, config)

    def forward(self, features):
        return self[1](self[0](self.act(*features)))


BLOCKS = {
    ResBlock: QuantResBlock,
    BNResBlock: QuantBNResBlock,
    DenseBlock: QuantDenseBlock,
    GlobalFusion: QuantGlobalFusion,
}
