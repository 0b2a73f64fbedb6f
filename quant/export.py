"""Export a trained network to ONNX, its quantized convolutions in integers: `python -m quant.export --help`."""

import json
import logging
import sys
from collections import Counter
from pathlib import Path

try:
    import onnx
except ImportError as error:
    raise SystemExit("error: quant.export needs the package onnx; pip install -r requirements-deploy.txt") from error

import model
from data.images import image_files, read_image
from data.patches import to_planes, to_values
from quant.deploy.lowering.calibration import calibrate
from quant.deploy.lowering.exact import EXACT_BLOCKS, any_gated
from quant.deploy.lowering.floats import FLOAT_BLOCKS, NETWORKS
from quant.deploy.lowering.graph import OPSETS, Graph, image_model
from quant.deploy.lowering.int8 import Int8
from quant.deploy.lowering.int8_networks import INT8_NETWORKS
from quant.deploy.network import given_flags, network_parser
from quant.deploy.onnx_backend import FORMAT
from quant.deploy.packed import file_hash
from quant.open import open_network
from quant.swap import is_quantized
from utility import UserError, atomic_path, run_main

log = logging.getLogger(__name__)

BITS = range(2, 7)
DEFAULT_OPSET = 18
CALIBRATION_IMAGES = 32
CALIBRATION_SIDE = 192
INTEGER_OPERATORS = ("QLinearConv", "MatMulInteger")


def main(argv=None):
    """Read --refine, write --out, say which convolutions became integers. Raises UserError for a user's mistake."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parse(argv)
    _check(options, options.k_bits)
    network = open_network(options.refine, flag="--refine", **given_flags(options))
    _check(options, network.source.k_bits)
    images = calibration_images(options.calib, network) if options.rest == "int8" else None
    path = network.source.path
    exported = export(network, rest=options.rest, images=images, opset=options.opset,
                      source={"file": path.name, "sha256": file_hash(path)})
    try:
        with atomic_path(options.out) as temporary:
            onnx.save(exported, temporary)
    except OSError as error:
        raise UserError(f"--out {options.out}: can't be written ({error.strerror or error})") from error
    print(f"{options.out}: {Path(options.out).stat().st_size / 1e6:.2f} MB, opset {options.opset}, {told(exported)}")
    return 0


def _parse(argv):
    parser = network_parser("Export a network to ONNX, quantized convolutions in integers.")
    parser.add_argument("--refine", required=True, help="what to export: a run's folder, a checkpoint, a packed file")
    parser.add_argument("--out", required=True, help="file to write, ending in .onnx")
    parser.add_argument("--rest", default="fp32", choices=("fp32", "int8"),
                        help="layers that DDTB does not quantize: fp32 (default), every value as in PyTorch, or "
                             "post-training int8, fast")
    parser.add_argument("--calib", default="", help="folder of low-resolution images that --rest int8 is calibrated on")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET,
                        help=f"ONNX operator set, {OPSETS.start} to {OPSETS.stop - 1} (default: {DEFAULT_OPSET})")
    return parser.parse_args(argv)


def _check(options, k_bits):
    if not options.out.endswith(".onnx"):
        raise UserError(f"--out {options.out}: an ONNX file's name ends in .onnx")
    if k_bits not in (*BITS, 32, None):
        raise UserError(f"--k_bits {k_bits}: 2 to 6 bits become integers, 32 stays float; levels of 7 and 8 "
                        "bits need not fit int8, and their products saturate on processors without VNNI")
    if options.rest == "int8" and k_bits == 32:
        raise UserError("--rest int8: is for quantized networks; give one of 2 to 6 bits")
    if options.rest == "int8" and not options.calib:
        raise UserError("--rest int8: needs --calib, a folder of images like those to be upscaled")
    if options.rest == "fp32" and options.calib:
        raise UserError(f"--calib {options.calib}: --rest fp32 needs no calibration; drop it, or give --rest int8")


def calibration_images(folder, network):
    """Float32 [1, n_colors, h, w] of up to CALIBRATION_IMAGES images spread over the folder, each cut to its middle.

    network: whose range and colours they have.
    """
    files = image_files(folder)
    if not files:
        raise UserError(f"--calib {folder}: no images in it")
    images = []
    for path in files[:: -(-len(files) // CALIBRATION_IMAGES)]:
        pixels = read_image(path)
        top, left = (max(side - CALIBRATION_SIDE, 0) // 2 for side in pixels.shape[:2])
        middle = to_planes(pixels[top : top + CALIBRATION_SIDE, left : left + CALIBRATION_SIDE])
        images.append(to_values(middle, rgb_range=network.rgb_range, n_colors=network.n_colors)[None])
    log.info("calibrating on %d images of %s", len(images), folder)
    return images


def export(network, *, rest="fp32", images=None, opset=DEFAULT_OPSET, source=None):
    """The ONNX model of a network in evaluation mode on the CPU, full-precision or quantized; checked.

    Input `lr` and output `sr` are float32 [batch, n_colors, height, width] in 0..rgb_range. rest: 'fp32', each level
    and each float as in PyTorch, or 'int8' (quantized networks alone), calibrated on `images`, float32
    [1, n_colors, h, w] each; `sr` then holds the values of an 8-bit image. source: {"file", "sha256"} for the metadata.
    Raises UserError for a network whose levels integers can't hold.
    """
    _check_lowering(network)
    graph, rgb_range = Graph(network), network.rgb_range
    if rest == "int8":
        sr = INT8_NETWORKS[type(network)](Int8(graph, calibrate(network, images)), network, rgb_range)
    else:
        sr = NETWORKS[type(network)](graph, network, {**FLOAT_BLOCKS, **EXACT_BLOCKS})
    bits = network.quant_config.k_bits if is_quantized(network) else 32
    metadata = {"format": FORMAT, "network": {"name": model.name_of(network), **network.settings}, "k_bits": bits,
                "rest": rest, "rgb_range": rgb_range, "source": source}
    return image_model(graph, sr, channels=network.n_colors, scale=network.scale, opset=opset,
                       per_image=any_gated(network), metadata={key: json.dumps(value) for key, value in
                                                               metadata.items()})


def _check_lowering(network):
    """Raise UserError for a network or a method that nobody has lowered."""
    if type(network) not in NETWORKS:
        raise UserError(f"--model {type(network).__name__}: can be trained, tested and packed, not exported; "
                        f"{', '.join(kind.__name__ for kind in NETWORKS)} can")
    if is_quantized(network) and network.quant_config.quantizer != "ddtb":
        raise UserError(f"--quantizer {network.quant_config.quantizer}: can be trained and tested, not exported; "
                        "ddtb can")


def told(exported):
    """What became of the convolutions, in words."""
    counts = Counter(node.op_type for node in body_nodes(exported.graph) if ".gate/" not in node.name)
    integers = sum(counts[kind] for kind in INTEGER_OPERATORS)
    return f"{integers} convolutions in integers, {counts['Conv']} in float"


def body_nodes(graph):
    """All nodes of a graph; those of its Scan over the batch, where there is one."""
    for node in graph.node:
        bodies = [attribute.g for attribute in node.attribute if attribute.name == "body"]
        yield from body_nodes(bodies[0]) if bodies else [node]


if __name__ == "__main__":
    sys.exit(run_main(main))
