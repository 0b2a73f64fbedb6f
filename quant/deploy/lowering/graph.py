"""A graph of ONNX operators under construction: nodes and constants, and torch's layers in float."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from quant.deploy.bitpack import pack_bits
from quant.deploy.lowering.levels import IntegerWeight

# what the operators that unpack a weight take up themselves
UNPACKING_BYTES = 512


class Graph:
    """Nodes and constants of one graph. Equal constants are stored once; names say which module a node belongs to.

    What adds one gives its name. `code_graph.CodeGraph` adds quantized layers.

    network: the torch module whose graph this becomes, for the names. packed: {bits: onnx type} of integers smaller
    than a byte that weights may be stored in; `image_model.pack_types` gives it.
    """

    def __init__(self, network: nn.Module, *, packed: dict[int, int] | None = None) -> None:
        self.scope = ""
        # how many there are "in integers" and "in float", apart from gates'
        self.convolutions = Counter()
        self._packed = packed or {}
        self._places = {module: name for name, module in network.named_modules()}
        self.nodes, self.initializers = [], []
        self._constants, self._counts = {}, {}

    @contextlib.contextmanager
    def within(self, module: nn.Module) -> Iterator[None]:
        """Nodes made in the meantime belong to a module of the network; `scope` is its name."""
        outer, self.scope = self.scope, self._places[module]
        try:
            yield
        finally:
            self.scope = outer

    def _unique(self, stem):
        stem = f"{self.scope}/{stem}" if self.scope else stem
        self._counts[stem] = count = self._counts.get(stem, 0) + 1
        return stem if count == 1 else f"{stem}_{count}"

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a constant tensor; value: anything that numpy.asarray takes."""
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._unique("constant")
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def float32(self, value: float | str) -> str:
        """A float32 scalar: a number's constant, or the runtime scalar that already has a name."""
        return value if isinstance(value, str) else self.constant(value, np.float32)

    def uint8(self, value: int | str) -> str:
        """A uint8 scalar, likewise."""
        return value if isinstance(value, str) else self.constant(value, np.uint8)

    def weight(self, levels: np.ndarray) -> str:
        """An int8 tensor of whole numbers up to INT8_MAX; in the file they take 2 or 4 bits each where `packed` allows.

        A Cast, and where need be a sum and a product, make the int8 values of them: constants, which runtimes compute
        when they load the file.
        """
        factor = int(np.gcd.reduce(levels, axis=None)) or 1
        values = levels // factor
        span = int(values.max() - values.min())
        bits = min((bits for bits in self._packed if span < 2**bits), default=8)
        if bits == 8 or levels.size * (8 - bits) / 8 < UNPACKING_BYTES:
            return self.constant(levels, np.int8)
        half = 2 ** (bits - 1)
        offset = 0 if -half <= values.min() and values.max() < half else int(values.min()) + half
        whole = self.op("Cast", self._packed_constant(values - offset, bits), to=TensorProto.INT32)
        if offset:
            whole = self.op("Add", whole, self.constant(offset, np.int32))
        if factor != 1:
            whole = self.op("Mul", whole, self.constant(factor, np.int32))
        return self.op("Cast", whole, to=TensorProto.INT8)

    def _packed_constant(self, values, bits):
        """The name of an integer constant of 2 or 4 bits a value, the first value in the lowest bits."""
        data = pack_bits(values.astype(np.int64) & (2**bits - 1), bits).tobytes()
        key = (bits, values.shape, data)
        if key not in self._constants:
            self._constants[key] = name = self._unique("constant")
            self.initializers.append(helper.make_tensor(name, self._packed[bits], values.shape, data, raw=True))
        return self._constants[key]

    def float_conv(self, x: str, weight: str, size: int, bias: np.ndarray | None) -> str:
        """A float convolution with `same` zero padding; weight: the name of an [O, I, size, size]; bias: [O]."""
        self.convolutions["in float"] += 1
        inputs = [x, weight] + ([] if bias is None else [self.constant(bias, np.float32)])
        return self.op("Conv", *inputs, kernel_shape=[size, size], pads=[size // 2] * 4)

    def float_mean(self, x: str) -> str:
        """The mean of a float feature over height and width, [N, C, 1, 1].

        First along rows: GlobalAveragePool adds all pixels one after the other, and rounds ten times as much away.
        """
        return self.op("ReduceMean", self.op("ReduceMean", x, self.int64(3)), self.int64(2))

    def int64(self, *values: int) -> str:
        """A constant int64 vector: shapes, axes, positions."""
        return self.constant(values, np.int64)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node of the standard operator `kind`; give its output's name, or a list of them."""
        name = self._unique(kind)
        names = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return name if outputs == 1 else names

    def rename(self, name: str, new: str) -> None:
        """Give a tensor another name, everywhere."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if old == name else old for old in names]

    def conv(self, x: str, module: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> str:
        """A torch convolution, the batch norm behind it, if any, folded in."""
        weight, bias = array(module.weight), array(module.bias)
        if norm is not None:
            factor, offset = norm_factors(norm)
            weight, bias = weight * factor[:, None, None, None], bias_of(module) * factor + offset
        with self.within(module):
            return self.float_conv(x, self.constant(weight, np.float32), weight.shape[-1], bias)

    def prelu(self, x: str, module: nn.PReLU) -> str:
        """PReLU; one slope for all channels, or one a channel."""
        return self.op("PRelu", x, self.constant(array(module.weight).reshape(-1, 1, 1)))

    def upsample(self, x: str, modules: Iterable[nn.Module]) -> str:
        """Convolutions, pixel shuffles and PReLUs in a row."""
        for module in modules:
            name = type(module).__name__
            if name == "PixelShuffle":
                x = self.op("DepthToSpace", x, blocksize=module.upscale_factor, mode="CRD")
            else:
                x = self.prelu(x, module) if name == "PReLU" else self.conv(x, module)
        return x



def array(tensor: Tensor) -> np.ndarray:
    """A tensor's values as NumPy, or None for None."""
    return None if tensor is None else tensor.detach().cpu().numpy()


def norm_factors(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm by running statistics as (factor, offset), float64 [C] each."""
    factor = array(norm.weight).astype(np.float64) / np.sqrt(array(norm.running_var).astype(np.float64) + norm.eps)
    return factor, array(norm.bias) - array(norm.running_mean) * factor


def bias_of(conv: nn.Conv2d) -> np.ndarray:
    """A convolution's bias, float64 [O]; zeros where it has none."""
    return np.zeros(conv.out_channels) if conv.bias is None else array(conv.bias).astype(np.float64)


def with_norm(weight: IntegerWeight, bias: np.ndarray, norm: nn.BatchNorm2d | None) -> tuple[IntegerWeight, np.ndarray]:
    """IntegerWeight and bias with the batch norm behind them, if any, folded in."""
    if norm is None:
        return weight, bias
    factor, offset = norm_factors(norm)
    return weight.scaled(factor), bias * factor + offset
