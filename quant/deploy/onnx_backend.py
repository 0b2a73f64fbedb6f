"""Run an exported network where a torch one is expected."""

import json
from pathlib import Path

import torch

from quant.deploy.openvino_session import OpenVinoSession
from utility import UserError

FORMAT = "ddtb-onnx-1"
# before, QLinearConv got biases wrong that are computed at run time, as --rest int8 does behind gates, in silence
OLDEST_RUNTIME = (1, 29)


class OnnxNetwork:
    """An exported file that is called as the network was: lr [N, n_colors, h, w] to sr, float32, on lr's device.

    threads: on the CPU; 0: one a core. runtime: a name in SESSIONS. settings: the network's, `scale` among them;
    k_bits, rest, rgb_range: as exported. Raises UserError for a file that quant.export did not make.
    """

    def __init__(self, path, *, threads: int = 0, runtime: str = "onnx"):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        self.session = SESSIONS[runtime](self.path, threads, self.path.read_bytes())
        described = self._described()
        self.name = described["network"].pop("name")
        self.settings = described["network"]
        self.scale = self.settings["scale"]
        self.k_bits = described["k_bits"]
        self.rest = described["rest"]
        self.rgb_range = described["rgb_range"]

    def _described(self):
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("format") != json.dumps(FORMAT):
            raise UserError(f"{self.path}: is not a file that quant.export made")
        return {key: json.loads(value) for key, value in metadata.items()}

    def __call__(self, lr):
        (sr,) = self.session.run(["sr"], {"lr": lr.detach().cpu().numpy()})
        return torch.from_numpy(sr).to(lr.device)

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
    """The network of --refine FILE.onnx, run by --backend. Raises UserError when it is not what is asked for."""
    network = OnnxNetwork(options.refine, runtime=options.backend)
    network.check(options)
    return network


def _session(path, threads, content):
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
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base besides this
        raise UserError(f"{path}: ONNX Runtime can't load it ({' '.join(str(error).split()):.200})") from error


# what runs exported files: function of (path, threads, the file's bytes)
SESSIONS = {"onnx": _session, "openvino": OpenVinoSession}
