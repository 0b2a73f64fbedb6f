"""Run an exported network where a torch one is expected."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import model
from model.settings import SETTINGS, made_from, read_json
from utility import UserError

FORMAT = "ddtb-onnx-1"
# before, QLinearConv got biases wrong that are computed at run time, as --rest int8 does behind gates, in silence
OLDEST_RUNTIME = (1, 29)
PROBE = 16  # pixels a side of the image that a file is tried on


@dataclass(frozen=True)
class Exported:
    """What an exported file's metadata says of it. Raises ValueError for values that can't be."""

    network: dict
    k_bits: int
    rgb_range: float = 255
    rest: str = "fp32"

    def __post_init__(self):
        if self.k_bits not in (*range(2, 9), 32):
            raise ValueError(f"k_bits {self.k_bits}: 2 to 8, or 32, are possible")
        if problem := SETTINGS["rgb_range"].problem(self.rgb_range):
            raise ValueError(f"rgb_range {self.rgb_range}: {problem}")


class OnnxNetwork:
    """An exported file that is called as the network was: lr [N, n_colors, h, w] to sr, float32, on lr's device.

    threads: of ONNX Runtime, which computes on the CPU; 0: one a core. settings: the network's, `scale` among them;
    k_bits, rest, rgb_range: as exported. Raises UserError for a file that quant.export did not make, or that does not
    enlarge as it says.
    """

    def __init__(self, path: str | Path, *, threads: int = 0):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        check_finite(self.path)
        self.session = _session(self.path, threads)
        described = self._described()
        skeleton = model.skeleton(described.network, f"{path}: its network record")
        self.name = model.name_of(skeleton)
        self.settings = {**skeleton.settings, "rgb_range": described.rgb_range}
        self.scale = self.settings["scale"]
        self.k_bits, self.rest, self.rgb_range = described.k_bits, described.rest, described.rgb_range
        self._check_graph()

    @property
    def source(self) -> "OnnxNetwork":
        """As a torch network has it: what the file says."""
        return self

    @property
    def flags(self) -> dict[str, Any]:
        """{flag: value} of everything that the file decides."""
        return {"model": self.name, "k_bits": self.k_bits, **self.settings}

    def _described(self):
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("format") != json.dumps(FORMAT):
            raise UserError(f"{self.path}: is not a file that quant.export made")
        names = [one.name for one in fields(Exported) if one.name in metadata]
        record = {name: read_json(metadata[name], f"{self.path}: its {name}") for name in names}
        return made_from(record, Exported, f"{self.path}: its metadata")

    def _check_graph(self):
        """Raise UserError unless the graph takes `lr` and makes a finite `sr` of the size that the metadata says."""
        sides = self.session.get_inputs(), self.session.get_outputs()
        ends = [[(one.name, one.type) for one in side] for side in sides]
        if ends != [[("lr", "tensor(float)")], [("sr", "tensor(float)")]]:
            raise UserError(f"{self.path}: its graph does not make sr of lr; export the network again")
        try:
            sr = self(torch.full((1, self.settings["n_colors"], PROBE, PROBE), self.rgb_range / 2))
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions have no common base besides this
            raise UserError(f"{self.path}: can't be run ({' '.join(str(error).split()):.200})") from error
        if not torch.isfinite(sr).all():
            raise UserError(f"{self.path}: makes values that are not finite; export the network again")

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        (sr,) = self.session.run(["sr"], {"lr": lr.detach().cpu().numpy()})
        count, channels, height, width = lr.shape
        if sr.shape != (count, channels, self.scale * height, self.scale * width):
            raise UserError(f"{self.path}: makes {list(sr.shape)} of {list(lr.shape)}, which is not x{self.scale} as "
                            "it says; export the network again")
        return torch.from_numpy(sr).to(lr.device)

    def eval(self) -> "OnnxNetwork":
        """As a torch module has it; an exported network knows nothing else."""
        return self

    def check(self, given: dict[str, Any]) -> "OnnxNetwork":
        """The network itself. Raises UserError where flags that were given ask for another one."""
        different = [f"--{name} {self.flags[name]} (asked for: {value})" for name, value in given.items()
                     if name in self.flags and self.flags[name] != value]
        if different:
            raise UserError(f"{self.path}: was exported with {', '.join(different)}; leave out the flags that it knows")
        return self


def check_finite(path: Path) -> None:
    """Raise UserError, naming the tensor, where a constant of an ONNX file is not finite or lies in another file.

    Integer operators would make plausible numbers of a NaN.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError(f"{path}: needs onnx and ONNX Runtime; pip install onnx onnxruntime") from error
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's own exceptions have no common base besides this
        raise UserError(f"{path}: is no ONNX file that can be read, or is cut short; export it again") from error
    for name, tensor in _constants(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{path}: {name} lies in another file; export the network again")
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE) and \
                not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise UserError(f"{path}: {name} is not finite; export the network again")


def _constants(graph):
    """(name, tensor) of every constant of a graph and the graphs in its nodes."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield node.name or node.output[0], attribute.t
            for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _constants(body)


def _session(path, threads):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: needs ONNX Runtime to run; pip install onnxruntime") from error
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < OLDEST_RUNTIME:
        raise UserError(f"{path}: ONNX Runtime {onnxruntime.__version__} computes some integer convolutions wrongly; "
                        f"install {OLDEST_RUNTIME[0]}.{OLDEST_RUNTIME[1]} or newer")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base besides this
        raise UserError(f"{path}: ONNX Runtime can't load it ({' '.join(str(error).split()):.200})") from error
