"""Run an exported network where a torch one is expected."""

import json
from pathlib import Path

import torch

from utility import UserError

FORMAT = "ddtb-onnx-1"


class OnnxNetwork:
    """An exported file that is called as the network was: lr [N, n_colors, h, w] to sr, float32, on lr's device.

    threads: of ONNX Runtime, which computes on the CPU; 0: one a core. settings: the network's, `scale` among them;
    k_bits, rest, rgb_range: as exported. Raises UserError for a file that quant.export did not make.
    """

    def __init__(self, path, *, threads=0):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        self.session = _session(self.path, threads)
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


def _session(path, threads):
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: needs ONNX Runtime to run; pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base besides this
        raise UserError(f"{path}: ONNX Runtime can't load it ({' '.join(str(error).split()):.200})") from error
