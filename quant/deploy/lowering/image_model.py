"""The ONNX model around a graph: its input and output, the operator set, a Scan where images go through one by one."""

from collections.abc import Sequence

import onnx
from onnx import ModelProto, TensorProto, helper

from quant.deploy.lowering.graph import Graph
from utility import UserError

PRODUCER = "ddtb"
OPSETS = range(18, min(onnx.defs.onnx_opset_version(), 25) + 1)
DEFAULT_OPSET = 18
# bits a value in the file: (name of the type, the first operator set that casts it)
PACKED_TYPES = {2: ("INT2", 25), 4: ("INT4", 21)}


def pack_types(largest_opset: int | None, bits: Sequence[int] = (2, 4)) -> dict[int, int]:
    """{bits: onnx type} for `Graph`: the small integers among `bits` that onnx and the operator set know; None: any."""
    largest = OPSETS.stop - 1 if largest_opset is None else largest_opset
    return {one: getattr(TensorProto, name) for one, (name, opset) in PACKED_TYPES.items()
            if one in bits and opset <= largest and hasattr(TensorProto, name)}


def check_opset(opset: int) -> None:
    """Raise UserError for an operator set that is none of OPSETS."""
    if opset not in OPSETS:
        raise UserError(f"--opset {opset}: {OPSETS.start} to {OPSETS.stop - 1} are possible")


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
    check_opset(opset)
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
    axis = graph.int64(0)
    enter = helper.make_node("Unsqueeze", ["lr_image", axis], ["lr_batch"], name="batch_of_one")
    leave = helper.make_node("Squeeze", ["sr_batch", axis], ["sr_image"], name="the_one")
    body = helper.make_graph([enter, *graph.nodes, leave], "image", infos[:1], infos[1:], graph.initializers)
    return helper.make_node("Scan", ["lr"], ["sr"], name="images", body=body, num_scan_inputs=1)
