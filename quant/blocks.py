"""The quantized form of each float block: which convolution and which feature is quantized.

quant/README.md, "Where quantizers sit", has the table. A quantized block takes over the float block's Parameters, under
the same names. BLOCKS maps each float class to its quantized one; STAYS_FLOAT lists the classes that stay as they are.
FLOAT_INPUT names a block's quantized convolutions whose input is not quantized.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from model.common import ImageConv
from model.edsr import ResBlock
from model.norm import BatchNorm2d
from model.rdn import DenseBlock, DenseConv, GlobalFusion
from model.srresnet import BNResBlock
from quant.config import QuantConfig
from quant.weight import QuantConv2d


@dataclass(frozen=True)
class Recipe:
    """What differs between networks.

    weight_quantizer: the name of DDTB's. percentile: M, where bounds start from. calibrates_quantized: whether weights
    are quantized during calibration (measured in the release: RDN's are, the others' are not). keeps_operands: whether
    convolutions keep their quantized inputs for backward; RDN's next quantizer keeps the same tensors, so recomputing
    would save nothing.
    """

    weight_quantizer: str
    percentile: float
    calibrates_quantized: bool
    keeps_operands: bool

    def conv(self, conv: nn.Conv2d, config: QuantConfig) -> QuantConv2d:
        """The quantized form of one convolution."""
        return QuantConv2d(conv, config.k_bits, config.method.weight or self.weight_quantizer,
                           calibrates_quantized=self.calibrates_quantized, keeps_operands=self.keeps_operands)

    def act(self, channels: int, config: QuantConfig, bits: int | None = None) -> nn.Module:
        """A quantizer for a feature of so many channels; bits: config.k_bits where not given."""
        return config.method.activation.for_feature(channels, bits or config.k_bits, percentile=self.percentile,
                                                    **config.settings)


RESIDUAL = Recipe("percentile", 99, calibrates_quantized=False, keeps_operands=False)
DENSE = Recipe("minmax", 95, calibrates_quantized=True, keeps_operands=True)


class QuantResBlock(nn.Module):
    """EDSR: the skip, conv 2's input and the residual are quantized; conv 1 reads the block's input as it comes."""

    FLOAT_INPUT = ("body.0",)

    def __init__(self, block: ResBlock, config: QuantConfig) -> None:
        super().__init__()
        conv1, relu, conv2 = block.body
        self.act1 = RESIDUAL.act(conv1.in_channels, config, config.sum_bits)
        self.act2 = RESIDUAL.act(conv2.in_channels, config)
        self.act3 = RESIDUAL.act(conv2.out_channels, config, config.sum_bits)
        self.body = nn.Sequential(RESIDUAL.conv(conv1, config), relu, RESIDUAL.conv(conv2, config))
        self.res_scale = block.res_scale

    def forward(self, x: Tensor) -> Tensor:
        conv1, relu, conv2 = self.body
        residual = conv2(self.act2(relu(conv1(x))))
        if self.res_scale != 1:
            residual = residual * self.res_scale
        return self.act3(residual) + self.act1(x)


class QuantBNResBlock(nn.Module):
    """SRResNet: the inputs of both convolutions are quantized, the skip is not."""

    def __init__(self, block: BNResBlock, config: QuantConfig) -> None:
        super().__init__()
        self.conv1, self.in1, self.relu = RESIDUAL.conv(block.conv1, config), block.in1, block.relu
        self.conv2, self.in2 = RESIDUAL.conv(block.conv2, config), block.in2
        self.act1 = RESIDUAL.act(self.conv1.in_channels, config)
        self.act2 = RESIDUAL.act(self.conv2.in_channels, config)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.in1(self.conv1(self.act1(x))))
        return self.in2(self.conv2(self.act2(hidden))) + x


class QuantDenseConv(nn.Module):
    """(a, b, ..) to (y, relu(conv(y))), y the quantized concatenation of a, b, ..; the first of a block has no act.

    The concatenation itself, the float block's result, is never made: the next act and its backward read the parts.
    """

    def __init__(self, block: DenseConv, config: QuantConfig, *, first: bool) -> None:
        super().__init__()
        conv, relu = block.conv
        self.conv = nn.Sequential(DENSE.conv(conv, config), relu)
        self.act = nn.Identity() if first else DENSE.act(conv.in_channels, config)

    def forward(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x = self.act(*parts)
        return x, self.conv(x)


class QuantDenseBlock(nn.Module):
    """RDN: the block's input, every later convolution's input and the local fusion's are quantized.

    As published the residual is the quantized input too; with other bits for sums it has its own quantizer, `skip`.
    """

    def __init__(self, block: DenseBlock, config: QuantConfig) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(QuantDenseConv(c, config, first=j == 0) for j, c in enumerate(block.convs)))
        channels = block.convs[0].conv[0].in_channels
        self.act1 = DENSE.act(channels, config)
        self.act2 = DENSE.act(block.LFF.in_channels, config)
        self.LFF = DENSE.conv(block.LFF, config)
        self.skip = None if config.sum_bits == config.k_bits else DENSE.act(channels, config, config.sum_bits)

    def forward(self, x: Tensor) -> Tensor:
        first = self.act1(x)
        kept = first if self.skip is None else self.skip(x)
        return self.LFF(self.act2(*self.convs((first,)))) + kept


class QuantGlobalFusion(nn.Sequential):
    """RDN: the concatenation of all block outputs is quantized; the 3x3 convolution reads the 1x1's output as it is."""

    FLOAT_INPUT = ("1",)

    def __init__(self, block: GlobalFusion, config: QuantConfig) -> None:
        super().__init__(*(DENSE.conv(conv, config) for conv in block))
        self.act = DENSE.act(block[0].in_channels, config)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self[1](self[0](self.act(*features)))


BLOCKS = {ResBlock: QuantResBlock, BNResBlock: QuantBNResBlock, DenseBlock: QuantDenseBlock,
          GlobalFusion: QuantGlobalFusion}
# modules whose own weights stay in full precision; blocks within them are quantized all the same. `quantize` refuses a
# class that is in neither list. torch's own modules need no entry: outside blocks they stay in full precision.
STAYS_FLOAT = {ImageConv, BatchNorm2d}
