"""What a network takes up in every form of file."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from model.common import SuperResolver
from quant.deploy.packed import write_packed
from quant.export import export

IMAGE_SIDE = 32
# form: what `export` makes of it; gates as the network has them
EXPORTED: dict[str, dict[str, Any]] = {
    "qlinear, rest fp32": {}, "qlinear, rest int8": {"rest": "int8"},
    "qlinear, rest int8, plain weights": {"rest": "int8", "weights": "plain"},
    "qdq, rest fp32": {"operators": "qdq"}, "qdq, rest int8": {"rest": "int8", "operators": "qdq"},
    "qdq, rest int8, packed weights": {"rest": "int8", "operators": "qdq", "weights": "packed"},
}


def file_sizes(network: SuperResolver) -> dict[str, int]:
    """{form: bytes} of a quantized network from a file, packed and exported in every way.

    It is calibrated on noise for that: ranges do not change a size. Raises UserError where it can't be exported.
    """
    noise = torch.rand(1, network.n_colors, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0))
    images = [noise * network.rgb_range]
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "x.safetensors"
        sizes = {"packed": write_packed(network, packed, source=network.source.path)}
    for form, settings in EXPORTED.items():
        sizes[f"ONNX, {form}"] = export(network, images=images, **settings).ByteSize()
    return sizes
