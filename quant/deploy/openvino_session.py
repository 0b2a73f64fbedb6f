"""OpenVINO behind the few methods of an ONNX Runtime session that exported networks are run by."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from quant.deploy.onnx_file import read_model
from utility import UserError

# what OpenVINO can't compute, or not as it is meant
FOREIGN = ("QLinearConv", "MatMulInteger", "Scan")
ELEMENTS = {"f32": "tensor(float)", "boolean": "tensor(bool)", "i64": "tensor(int64)"}


class OpenVinoSession:
    """An exported file in OpenVINO on the CPU; path: for messages; content: the file's bytes; threads: 0: one a core.

    Raises UserError where OpenVINO is missing or too old, and for files that were not exported for it.
    """

    def __init__(self, path: str | Path, threads: int, content: bytes) -> None:
        self._compiled = _compiled(path, threads, content)
        self._request = self._compiled.create_infer_request()
        self._metadata = _metadata(path, content)

    def run(self, names: list[str], feeds: dict[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
        """The outputs of these names; options: of ONNX Runtime, without a meaning here."""
        self._request.infer(feeds)
        return [self._request.get_tensor(name).data.copy() for name in names]

    def get_modelmeta(self) -> SimpleNamespace:
        """As in ONNX Runtime: an object with `custom_metadata_map`."""
        return SimpleNamespace(custom_metadata_map=self._metadata)

    def get_inputs(self) -> list[SimpleNamespace]:
        """As in ONNX Runtime: objects with `name` and `type`."""
        return [_described(port) for port in self._compiled.inputs]

    def get_outputs(self) -> list[SimpleNamespace]:
        """As in ONNX Runtime: objects with `name` and `type`."""
        return [_described(port) for port in self._compiled.outputs]


def _described(port):
    kind = port.get_element_type().get_type_name()
    return SimpleNamespace(name=port.get_any_name(), type=ELEMENTS.get(kind, kind))


def _compiled(path, threads, content):
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"{path}: --backend openvino needs OpenVINO; pip install openvino") from error
    _metadata(path, content)
    settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(content), "CPU", settings)
    except Exception as error:  # OpenVINO's own exceptions have no common base besides this
        raise UserError(f"{path}: OpenVINO {openvino.__version__.partition('-')[0]} can't load it "
                        f"({' '.join(str(error).split()):.200})") from error


def _metadata(path, content):
    """{key: text} of the file. Raises UserError where it holds operators that OpenVINO does not know."""
    found = read_model(content, path)
    if any(node.op_type in FOREIGN for node in found.graph.node):
        raise UserError(f"{path}: was exported with --format qlinear, whose operators OpenVINO does not run; export it "
                        "with --format qdq, or give --backend onnx")
    return {entry.key: entry.value for entry in found.metadata_props}
