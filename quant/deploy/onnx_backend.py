"""Run an exported network where a torch one is expected."""

import contextlib
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import model
from model.settings import contradictions, is_of, made_from, read_json
from model.tiles import assembled, plan_tiles, reach
from quant.config import QuantConfig, as_kept
from quant.deploy.onnx_file import GATE, check_finite, check_runtime, read_model
from utility import FULL_PRECISION, UserError, check_file

FORMAT = "ddtb-onnx-1"
FLOAT = 1  # onnx.TensorProto.FLOAT
PROBE = 16  # pixels a side of the image that a file is tried on
FOREIGN = ("QLinearConv", "MatMulInteger", "Scan")  # what OpenVINO can't compute, or not as it is meant


@dataclass(frozen=True)
class Metadata:
    """What an exported file's metadata says of it. Raises ValueError for values that can't be.

    quant: what QuantConfig says of a trained network; empty in full precision and older files. source: {"file",
    "sha256"} of what it was made of. least_db: how near its images are to PyTorch's, as quant.verify takes it; 0:
    unknown. folded: {quantizer: [lower, upper]} of those whose gate was folded. levels: {quantizer: [tensor, step, zero
    point]}, a step that the graph computes by its name, None for real values; behind a gate these have a fourth entry,
    the name of their levels a unit.
    """

    network: dict
    k_bits: int
    rgb_range: float | None = None
    rest: str = "fp32"
    quant: dict = field(default_factory=dict)
    source: dict | None = None
    least_db: float = 0
    folded: dict = field(default_factory=dict)
    levels: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.k_bits not in (*range(2, 9), FULL_PRECISION):
            raise ValueError(f"k_bits {self.k_bits}: 2 to 8, or {FULL_PRECISION}, are possible")
        if not isinstance(self.source or {}, dict):
            raise ValueError(f"source {self.source}: a record of names and values is needed")
        for name, bounds in self.folded.items():
            if not (isinstance(bounds, list) and len(bounds) == 2 and all(is_of(bound, float) for bound in bounds)):
                raise ValueError(f"folded {name}: two numbers are needed")
        for name, entry in self.levels.items():
            tensor, step, zero, *scale = entry if isinstance(entry, list) and len(entry) in (3, 4) else (None,) * 3
            if not (isinstance(tensor, str) and (step is None or isinstance(step, str) or is_of(step, float))
                    and is_of(zero, int) and all(isinstance(name, str) for name in scale)):
                raise ValueError(f"levels {name}: a tensor, a step and a zero point are needed")


class OnnxNetwork:
    """An exported file that is called as the network was: lr [N, n_colors, h, w] to sr, float32, on lr's device.

    threads: on the CPU; 0: one a core. runtime: a name in SESSIONS. settings: the network's, `scale` and `n_colors`
    among them; flags: {flag: value} of everything that the file decides. reach: how many LR pixels around a pixel the
    network can see, at most. Raises UserError for a file that quant.export did not make, or that does not enlarge as
    it says.
    """

    def __init__(self, path: str | Path, *, threads: int = 0, runtime: str = "onnx") -> None:
        self.path = Path(path)
        check_file(self.path)
        self.content = self.path.read_bytes()
        exported = read_model(self.content, self.path)
        graph = exported.graph
        check_finite(graph, self.path)
        # whether bounds depend on means over the whole image
        self.gated = any(node.op_type == "Scan" or GATE in node.name for node in graph.node)
        self.open_session = functools.partial(SESSIONS[runtime], self.path, threads)
        self.session = self.open_session(self.content)
        metadata = {entry.key: entry.value for entry in exported.metadata_props}
        if metadata.get("format") != json.dumps(FORMAT):
            raise UserError(f"{self.path}: is not a file that quant.export made")
        record = {one.name: read_json(metadata[one.name], f"{self.path}: its {one.name}") for one in fields(Metadata)
                  if one.name in metadata}
        self.metadata = made_from(record, Metadata, f"{self.path}: its metadata")
        skeleton = model.skeleton(self.metadata.network, f"{path}: its network record")
        self.name, self.settings = model.name_of(skeleton), skeleton.settings
        self.scale, self.n_colors, self.rgb_range = skeleton.scale, skeleton.n_colors, skeleton.rgb_range
        if self.metadata.rgb_range not in (None, self.rgb_range):  # said twice, for readers that know no networks
            raise UserError(f"{path}: says two values of rgb_range; export the network again")
        self.reach = reach(skeleton.children())
        self.k_bits, quant = self.metadata.k_bits, self.metadata.quant
        self.flags = {"model": self.name, **self.settings, "k_bits": self.k_bits,
                      **(made_from(quant, QuantConfig, f"{path}: its quant").trained() if quant else {})}
        if runtime == "onnx" and self.gated and self.metadata.rest == "int8":
            check_runtime(self.path)
        self._check_graph(graph)

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def source(self) -> "OnnxNetwork":
        """As a torch network has it: what the file says."""
        return self

    def _check_graph(self, graph):
        """Raise UserError unless the graph takes `lr` and makes a finite `sr` of the size that the metadata says."""
        ends = [[(one.name, one.type.tensor_type.elem_type) for one in side] for side in (graph.input, graph.output)]
        if ends != [[("lr", FLOAT)], [("sr", FLOAT)]]:
            raise UserError(f"{self.path}: its graph does not make sr of lr; export the network again")
        sr = self(torch.full((1, self.n_colors, PROBE, PROBE), self.rgb_range / 2))
        if not torch.isfinite(sr).all():
            raise UserError(f"{self.path}: makes values that are not finite; export the network again")

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        (sr,) = self.session.run(["sr"], {"lr": lr.detach().cpu().numpy()})
        count, channels, height, width = lr.shape
        if sr.shape != (count, channels, self.scale * height, self.scale * width):
            raise UserError(f"{self.path}: makes {list(sr.shape)} of {list(lr.shape)}, which is not x{self.scale} as "
                            "it says; export the network again")
        return torch.from_numpy(sr).to(lr.device)

    def in_tiles(self, lr: Tensor, *, size: int, finish: Callable[[torch.Tensor], torch.Tensor],
                 progress: Callable[[], object] = lambda: None) -> torch.Tensor:
        """finish(self(lr)) for one image, float32 [1, n_colors, h, w], in tiles of at most size x size LR pixels.

        The result is the whole image's, means of gates included, where a quarter of `size` is `reach` or more. finish:
        what becomes of a tile's output before tiles are joined. progress: called after each tile, also where means are
        gathered.
        """
        tiles = plan_tiles(*lr.shape[2:], size=size, margin=self.reach)
        run = self._gated_run(lr, tiles, progress) if len(tiles) > 1 and self.gated else \
            lambda tile: self(lr[(..., *tile.window)])

        def one(tile):
            piece = finish(run(tile))
            progress()
            return piece

        return assembled(one, tiles, lr.shape, self.scale)

    def _gated_run(self, lr, tiles, progress):
        from quant.deploy.tiled_gates import TiledGates  # needs the package onnx

        network = TiledGates(self.content, self.open_session)
        network.gather(lr, tiles, progress)
        return functools.partial(network, lr)

    def eval(self) -> "OnnxNetwork":
        """As a torch module has it; an exported network knows nothing else."""
        return self

    def check(self, given: dict[str, Any]) -> "OnnxNetwork":
        """The network itself. Raises UserError where flags that were given ask for another one."""
        if given.get("k_bits") == FULL_PRECISION != self.flags["k_bits"]:
            raise UserError(f"{self.path}: is a quantized network at --k_bits {self.flags['k_bits']} (asked for: "
                            f"--k_bits {FULL_PRECISION}); give it to main_limitrange_incremental.py without that flag")
        if different := contradictions(self.flags, as_kept(given, self.k_bits), str(self.path)):
            raise UserError(f"{self.path}: was exported with {different}; leave out the flags that it knows")
        return self


@contextlib.contextmanager
def refusals(path: Path, refusal: str) -> Iterator[None]:
    """Turn what a runtime raises into a MemoryError, or a UserError: the file's path, the refusal, the reason."""
    try:
        yield
    except Exception as error:  # runtimes' own exceptions have no common base besides this
        if "allocate" in str(error).lower() or isinstance(error, MemoryError):
            raise MemoryError(str(error)) from error
        raise UserError(f"{path}: {refusal} ({' '.join(str(error).split()):.200})") from error


class OnnxRuntimeSession:
    """An exported file in ONNX Runtime on the CPU.

    path: for messages. threads: 0: one per core. content: the file's bytes. Raises UserError where ONNX Runtime is
    missing or can't load it.
    """

    def __init__(self, path: Path, threads: int, content: bytes) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path}: needs ONNX Runtime to run; pip install onnxruntime") from error
        self._path, options = path, onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._run_options = onnxruntime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True
        with refusals(path, f"ONNX Runtime {onnxruntime.__version__} can't load it"):
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names; nothing is computed that they don't need."""
        with refusals(self._path, "ONNX Runtime can't run it"):
            return self._session.run(names, feeds, self._run_options)


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's Core, one for the process.

    A Core gives signals a stack of their own while it lives. Two that go in the order they came leave signals the
    first one's, which is no more: the next signal would end the process.
    """
    import openvino

    return openvino.Core()


class OpenVinoSession:
    """The same in OpenVINO. Raises UserError also for files that were not exported for it."""

    def __init__(self, path: Path, threads: int, content: bytes) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UserError(f"{path}: --backend openvino needs OpenVINO; pip install openvino") from error
        if any(node.op_type in FOREIGN for node in read_model(content, path).graph.node):
            raise UserError(f"{path}: was exported with --format qlinear, whose operators OpenVINO does not run; "
                            "export it with --format qdq, or give --backend onnx")
        settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        with refusals(path, f"OpenVINO {openvino.__version__.partition('-')[0]} can't load it"):
            self._path, self._lock, core = path, threading.Lock(), openvino_core()
            self._request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names; OpenVINO computes the whole graph always."""
        with self._lock, refusals(self._path, "OpenVINO can't run it"):  # a request keeps one picture's outputs
            self._request.infer(feeds)
            return [self._request.get_tensor(name).data.copy() for name in names]


# what runs exported files: function of (path, threads, the file's bytes)
SESSIONS: dict[str, type[OnnxRuntimeSession] | type[OpenVinoSession]] = {
    "onnx": OnnxRuntimeSession, "openvino": OpenVinoSession}
