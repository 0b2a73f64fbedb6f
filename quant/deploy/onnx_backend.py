"""Run an exported network where a torch one is expected."""

import functools
import json
from pathlib import Path

import torch

import model
from model.tiles import assembled, plan_tiles, reach
from utility import UserError, check_file

FORMAT = "ddtb-onnx-1"
# before, QLinearConv gets biases wrong that are computed at run time, as --rest int8 does behind gates, in silence
OLDEST_RUNTIME = (1, 29)


class OnnxNetwork:
    """An exported file that is called as the network was: lr [N, n_colors, h, w] to sr, float32, on lr's device.

    threads: of ONNX Runtime, which computes on the CPU; 0: one a core. settings: the network's, `scale` among them;
    k_bits, rest, rgb_range: as exported. Raises UserError for a file that quant.export did not make.
    """

    def __init__(self, path, *, threads=0):
        self.path = Path(path)
        check_file(self.path)
        self.content = self.path.read_bytes()
        self.open_session = functools.partial(_session, self.path, threads)
        self.session = self.open_session(self.content)
        described = self._described()
        self.name = described["network"].pop("name")
        self.settings = described["network"]
        self.scale = self.settings["scale"]
        self.k_bits = described["k_bits"]
        self.rest = described["rest"]
        self.rgb_range = described["rgb_range"]
        _check_runtime(self.path, self.rest, self.content)

    def _described(self):
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("format") != json.dumps(FORMAT):
            raise UserError(f"{self.path}: is not a file that quant.export made")
        return {key: json.loads(value) for key, value in metadata.items()}

    def __call__(self, lr):
        (sr,) = self._run(self.session.run, ["sr"], {"lr": lr.detach().cpu().numpy()})
        return torch.from_numpy(sr).to(lr.device)

    @functools.cached_property
    def gated(self):
        """Whether bounds depend on means over the whole image; the graph then passes over a batch image by image."""
        graph = _graph(self.content, self.path)
        return any(node.op_type == "Scan" for node in graph.node)

    def in_tiles(self, lr, *, size, finish, progress=lambda: None):
        """finish(self(lr)) for one image, float32 [1, n_colors, h, w], in tiles of at most size x size LR pixels.

        The result is the whole image's, means of gates included, as `model.tiles.in_tiles` says. finish: what becomes
        of a tile's output before tiles are joined. progress: called after each tile, also where means are gathered.
        """
        with torch.device("meta"):
            seen = reach(model.NETWORKS[self.name](**self.settings).children())
        tiles = plan_tiles(*lr.shape[2:], size=size, margin=min(seen, size // 4))
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
        self._run(network.gather, lr, tiles, progress)
        return lambda tile: self._run(network, lr, tile)

    def _run(self, function, *arguments):
        """function(*arguments), what ONNX Runtime raises in it as MemoryError or UserError."""
        try:
            return function(*arguments)
        except Exception as error:  # its exceptions have no common base besides this
            if "allocate" in str(error).lower() or isinstance(error, MemoryError):
                raise MemoryError(str(error)) from error
            raise UserError(f"{self.path}: ONNX Runtime can't run it ({' '.join(str(error).split()):.200})") from error

    def eval(self):
        """As a torch module has it; an exported network knows nothing else."""
        return self

    def check(self, options):
        """Raise UserError where the options of an entry point ask for another network, bits or range than this one."""
        found = {"model": self.name, "k_bits": self.k_bits, "rgb_range": self.rgb_range, **self.settings}
        different = [f"--{name} {found[name]} (asked for: {getattr(options, name)})" for name in found
                     if hasattr(options, name) and getattr(options, name) != found[name]]
        if different:
            raise UserError(f"{self.path}: was exported with {', '.join(different)}; give the flags of its export")


def open_exported(options):
    """The network of --refine FILE.onnx, for --backend onnx. Raises UserError when it is not what is asked for."""
    network = OnnxNetwork(options.refine)
    network.check(options)
    return network


def _session(path, threads, content):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: needs ONNX Runtime to run; pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base besides this
        raise UserError(f"{path}: ONNX Runtime {onnxruntime.__version__} can't load it "
                        f"({' '.join(str(error).split()):.200})") from error


def _check_runtime(path, rest, content):
    """Raise UserError for an ONNX Runtime that would compute this file wrongly, without a word."""
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if rest != "int8" or version >= OLDEST_RUNTIME:
        return
    if any(node.op_type == "QLinearConv" and len(node.input) > 8 and node.input[8] not in constants
           for graph in _all_graphs(_graph(content, path)) for constants in [_constants(graph)] for node in graph.node):
        raise UserError(f"{path}: ONNX Runtime {onnxruntime.__version__} computes its integer convolutions wrongly; "
                        f"install {OLDEST_RUNTIME[0]}.{OLDEST_RUNTIME[1]} or newer")


def _graph(content, path):
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"{path}: needs the package onnx to look into it; pip install onnx") from error
    return onnx.load_model_from_string(content).graph


def _all_graphs(graph):
    return [graph, *(attribute.g for node in graph.node for attribute in node.attribute if attribute.name == "body")]


def _constants(graph):
    return {tensor.name for tensor in graph.initializer}
