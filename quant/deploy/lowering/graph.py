"""A small builder of ONNX graphs: every call adds one node or one constant and gives its name."""

import contextlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import utility

PRODUCER = "ddtb"
OPSETS = range(18, 24)


class Graph:
    """Nodes and constants of one graph. Equal constants are stored once; names say which module a node belongs to.

    network: the torch module whose graph this becomes, for the names.
    """

    def __init__(self, network):
        self.place = ""
        self._places = {module: name for name, module in network.named_modules()}
        self.nodes = []
        self.initializers = []
        self._constants = {}
        self._counts = {}

    @contextlib.contextmanager
    def within(self, module):
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

    def constant(self, value, dtype=None):
        """The name of a constant tensor; value: anything that numpy.asarray takes."""
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._unique("constant")
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def integers(self, *values):
        """A constant int64 vector: shapes, axes, positions."""
        return self.constant(values, np.int64)

    def op(self, kind, *inputs, outputs=1, **attributes):
        """Add a node of the standard operator `kind`; give its output's name, or a list of them."""
        name = self._unique(kind)
        names = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return name if outputs == 1 else names

    def rename(self, name, new):
        """Give a tensor another name, everywhere."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if old == name else old for old in names]


def image_model(graph, sr, *, channels, scale, opset, per_image, metadata):
    """The ONNX model that maps `lr` to `sr`, checked.

    graph: made from the input `lr`; sr: the name of its result. Both are float32 [batch, channels, height, width], any
    batch and size. per_image: the graph handles one image at a time, as runtime bounds are each image's own; it then
    becomes the body of a Scan over the batch. metadata: {key: text}. Raises UserError for an unknown opset.
    """
    if opset not in OPSETS:
        raise utility.UserError(f"--opset {opset}: {OPSETS.start} to {OPSETS.stop - 1} are possible")
    graph.rename(sr, "sr")
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
