"""OpenVINO behind the one method of an ONNX Runtime session that exported networks are run by."""

from pathlib import Path
from typing import Any

import numpy as np

from quant.deploy.onnx_file import read_model
from utility import UserError

# what OpenVINO can't compute, or not as it is meant
FOREIGN = ("QLinearConv", "MatMulInteger", "Scan")


class OpenVinoSession:
    """An exported file in OpenVINO on the CPU; path: for messages; content: the file's bytes; threads: 0: one a core.

    Raises UserError where OpenVINO is missing or too old, and for files that were not exported for it.
    """

    def __init__(self, path: Path, threads: int, content: bytes) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UserError(f"{path}: --backend openvino needs OpenVINO; pip install openvino") from error
        if any(node.op_type in FOREIGN for node in read_model(content, path).graph.node):
            raise UserError(f"{path}: was exported with --format qlinear, whose operators OpenVINO does not run; "
                            "export it with --format qdq, or give --backend onnx")
        settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        try:
            core = openvino.Core()
            self._request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
        except Exception as error:  # OpenVINO's own exceptions have no common base besides this
            raise UserError(f"{path}: OpenVINO {openvino.__version__.partition('-')[0]} can't load it "
                            f"({' '.join(str(error).split()):.200})") from error

    def run(self, names: list[str], feeds: dict[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
        """The outputs of these names; options: of ONNX Runtime, without a meaning here."""
        self._request.infer(feeds)
        return [self._request.get_tensor(name).data.copy() for name in names]
