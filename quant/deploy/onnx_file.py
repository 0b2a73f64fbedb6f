"""An exported file as it lies on the disk: what its graph holds, and what it needs of the runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utility import UserError

# before, QLinearConv gets biases wrong that are computed at run time, as --rest int8 does behind gates, in silence
OLDEST_RUNTIME = (1, 29)
# in the names of the nodes that belong to a gate
GATE = ".gate/"


def read_model(content: bytes, path: Path) -> Any:
    """The onnx.ModelProto in a file's bytes. Raises UserError where it can't be had."""
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"{path}: needs onnx and ONNX Runtime; pip install onnx onnxruntime") from error
    try:
        loaded = onnx.load_model_from_string(content)
        if not loaded.graph.node:
            raise ValueError("holds no graph")  # what an empty file is read as
        return loaded
    except Exception as error:  # protobuf's own exceptions have no common base besides this
        if content.startswith((b"PK", b"\x80")) or content[8:9] == b"{":  # torch's files, and safetensors
            raise UserError(f"{path}: holds weights, no graph; export it with python -m quant.export") from error
        raise UserError(f"{path}: is no ONNX file that can be read, or is cut short; export it again") from error


def of_one_image(exported: Any) -> Any:
    """The body of a Scan over the batch as an onnx.ModelProto of its own; a model without one as it is.

    Its input and output are [C, h, w] in the first case, else [N, C, h, w].
    """
    from onnx import helper

    scans = [node for node in exported.graph.node if node.op_type == "Scan"]
    if not scans:
        return exported
    body = next(attribute.g for attribute in scans[0].attribute if attribute.name == "body")
    return helper.make_model(body, opset_imports=exported.opset_import, ir_version=exported.ir_version)


def check_finite(graph: Any, path: Path) -> None:
    """Raise UserError, naming the tensor, where a constant is not finite or lies in another file.

    Integer operators would make plausible numbers of a NaN.
    """
    from onnx import TensorProto, numpy_helper

    for tensor in (tensor for one in all_graphs(graph) for tensor in one.initializer):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise UserError(f"{path}: {tensor.name} lies in another file; export the network again")
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise UserError(f"{path}: {tensor.name} is not finite; export the network again")


def check_runtime(path: Path) -> None:
    """Raise UserError for an ONNX Runtime that would compute this file of --rest int8 with gates wrongly."""
    import onnxruntime

    version = onnxruntime.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_RUNTIME:
        raise UserError(f"{path}: ONNX Runtime {version} computes its integer convolutions wrongly; install "
                        f"{OLDEST_RUNTIME[0]}.{OLDEST_RUNTIME[1]} or newer")


def all_graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from all_graphs(body)
