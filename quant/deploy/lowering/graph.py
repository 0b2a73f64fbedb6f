"""A small builder of ONNX graphs: every call adds one node or one constant and gives its name."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from quant.deploy.bitpack import pack_bits
from quant.deploy.lowering.levels import Codes
from utility import UserError

PRODUCER = "ddtb"
OPSETS = range(18, min(onnx.defs.onnx_opset_version(), 25) + 1)
DEFAULT_OPSET = 18
# bits a value in the file: (name of the type, the first operator set that casts it)
PACKED_TYPES = {2: ("INT2", 25), 4: ("INT4", 21)}
# what the operators that unpack a weight take up themselves
UNPACKING_BYTES = 512


class Graph:
    """Nodes and constants of one graph. Equal constants are stored once; names say which module a node belongs to.

    network: the torch module whose graph this becomes, for the names. packed: {bits: onnx type} of integers smaller
    than a byte that weights may be stored in; `pack_types` gives it.
    """

    def __init__(self, network: nn.Module, *, packed: dict[int, int] | None = None) -> None:
        self.place = ""
        self.notes = {}
        # gates' factors are rounded to 1 / beta_steps where set: no runtime's sigmoid or order of summing shows
        self.beta_steps: int | None = None
        self._packed = packed or {}
        self._places = {module: name for name, module in network.named_modules()}
        self.nodes = []
        self.initializers = []
        self._constants = {}
        self._counts = {}

    @contextlib.contextmanager
    def within(self, module: nn.Module) -> Iterator[None]:
        """Nodes made in the meantime belong to a module of the network; `place` is its name."""
        outer, self.place = self.place, self._places[module]
        try:
            yield
        finally:
            self.place = outer

    def _unique(self, stem):
        stem = f"{self.place}/{stem}" if self.place else stem
        self._counts[stem] = count = self._counts.get(stem, 0) + 1
        return stem if count == 1 else f"{stem}_{count}"

    def drop_unread(self, result: str) -> None:
        """Take out what does not lead to a result: what was tried, as an exact form that another part ruled out."""
        read, nodes = {result}, []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                read.update(node.input)
                nodes.append(node)
        self.nodes = nodes[::-1]
        self.initializers = [constant for constant in self.initializers if constant.name in read]
        self._constants = {key: name for key, name in self._constants.items() if name in read}

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a constant tensor; value: anything that numpy.asarray takes."""
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._unique("constant")
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def number(self, value: float | str) -> str:
        """A float32 scalar: a number's constant, or the runtime scalar that already has a name."""
        return value if isinstance(value, str) else self.constant(value, np.float32)

    def byte(self, value: int | str) -> str:
        """A uint8 scalar, likewise."""
        return value if isinstance(value, str) else self.constant(value, np.uint8)

    def weight(self, levels: np.ndarray) -> str:
        """An int8 tensor of whole numbers; in the file they take 2 or 4 bits each where `packed` allows it.

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

    def float_weight(self, levels: np.ndarray, scale: np.ndarray) -> tuple[str, int]:
        """(name, k) of the float weight levels / scale, [O, I, k, k]: stored as it is, or as packed integers."""
        if not self._packed:
            return self.constant(levels / scale, np.float32), levels.shape[-1]
        whole = self.op("Cast", self.weight(levels.astype(np.int64)), to=TensorProto.FLOAT)
        return self.op("Div", whole, self.constant(scale, np.float32)), levels.shape[-1]

    def _packed_constant(self, values, bits):
        """The name of an integer constant of 2 or 4 bits a value, the first value in the lowest bits."""
        data = pack_bits(values.astype(np.int64) & (2**bits - 1), bits).tobytes()
        key = (bits, values.shape, data)
        if key not in self._constants:
            self._constants[key] = name = self._unique("constant")
            self.initializers.append(helper.make_tensor(name, self._packed[bits], values.shape, data, raw=True))
        return self._constants[key]

    def float_conv(self, x: str, weight: np.ndarray | tuple[str, int], bias: np.ndarray | None = None) -> str:
        """A float convolution with `same` zero padding; weight: [O, I, k, k], or (its name, k); bias: [O]."""
        name, size = weight if isinstance(weight, tuple) else (self.constant(weight, np.float32), weight.shape[-1])
        inputs = [x, name] + ([] if bias is None else [self.constant(bias, np.float32)])
        return self.op("Conv", *inputs, kernel_shape=[size, size], pads=[size // 2] * 4)

    def float_mean(self, x: str) -> str:
        """The mean of a float feature over height and width, [N, C, 1, 1].

        First along rows: GlobalAveragePool adds all pixels one after the other, and rounds ten times as much away.
        """
        return self.op("ReduceMean", self.op("ReduceMean", x, self.integers(3)), self.integers(2))

    def concat(self, parts: Sequence[Codes]) -> Codes:
        """Features on one grid, joined along channels."""
        joined = self.op("Concat", *(part.name for part in parts), axis=1)
        return Codes(joined, parts[0].grid, sum(part.channels for part in parts))

    def note(self, quantizer: nn.Module, codes: Codes) -> Codes:
        """Keep the feature that a quantizer makes: `quant.verify` looks at it. Returns it."""
        self.notes[self._places[quantizer]] = codes
        return codes

    def integers(self, *values: int) -> str:
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


def pack_types(largest_opset: int | None, bits: Sequence[int] = (2, 4)) -> dict[int, int]:
    """{bits: onnx type} for `Graph`: the small integers among `bits` that onnx and the operator set know; None: any."""
    largest = OPSETS.stop - 1 if largest_opset is None else largest_opset
    return {one: getattr(TensorProto, name) for one, (name, opset) in PACKED_TYPES.items()
            if one in bits and opset <= largest and hasattr(TensorProto, name)}


def image_model(graph: Graph, sr: str, *, channels: int, scale: int, per_image: bool, metadata: dict[str, str],
                opset: int | None = None) -> ModelProto:
    """The ONNX model that maps `lr` to `sr`, checked.

    graph: made from the input `lr`; sr: the name of its result. Both are float32 [batch, channels, height, width], any
    batch and size. per_image: the graph handles one image at a time, as runtime scales are each image's own; it then
    becomes the body of a Scan over the batch. metadata: {key: text}. opset: the least possible where not given. Raises
    UserError for an unknown one.
    """
    if opset is None:  # the least that knows what the constants are stored in
        used = {constant.data_type for constant in graph.initializers}
        opset = max((least for name, least in PACKED_TYPES.values() if getattr(TensorProto, name, None) in used),
                    default=DEFAULT_OPSET)
    if opset not in OPSETS:
        raise UserError(f"--opset {opset}: {OPSETS.start} to {OPSETS.stop - 1} are possible")
    graph.rename(sr, "sr")
    graph.drop_unread("sr")
    nodes, constants = graph.nodes, graph.initializers
    if per_image:
        nodes, constants = [_scan_over_batch(graph, channels)], []
    shapes = {name: ["batch", channels, f"{name}_height", f"{name}_width"] for name in ("lr", "sr")}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(helper.make_graph(nodes, f"x{scale}", [infos["lr"]], [infos["sr"]], constants),
                              opset_imports=imports, producer_name=PRODUCER,
                              ir_version=helper.find_min_ir_version_for(imports))
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def _scan_over_batch(graph, channels):
    infos = [helper.make_tensor_value_info(f"{name}_image", TensorProto.FLOAT,
                                           [channels, f"{name}_height", f"{name}_width"]) for name in ("lr", "sr")]
    for name in ("lr", "sr"):  # the outer graph has these names
        graph.rename(name, f"{name}_batch")
    axis = graph.integers(0)
    enter = helper.make_node("Unsqueeze", ["lr_image", axis], ["lr_batch"], name="batch_of_one")
    leave = helper.make_node("Squeeze", ["sr_batch", axis], ["sr_image"], name="the_one")
    body = helper.make_graph([enter, *graph.nodes, leave], "image", infos[:1], infos[1:], graph.initializers)
    return helper.make_node("Scan", ["lr"], ["sr"], name="images", body=body, num_scan_inputs=1)
