"""Export a trained network to ONNX, its quantized convolutions in integers: `python -m quant.export --help`."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

import model
from data.images import named_path, read_folder
from data.pictures import to_planes, to_values
from model.common import SuperResolver
from model.edsr import EDSR
from model.rdn import RDN
from model.saved import file_hash
from model.srresnet import SRResNet
from quant.activation import check_finished, gates_in_use
from quant.deploy.lowering import edsr, rdn, srresnet
from quant.deploy.lowering.calibration import calibrate
from quant.deploy.lowering.fold import fold_gates
from quant.deploy.lowering.gate import MOST_GATED_BITS
from quant.deploy.lowering.image_model import DEFAULT_OPSET, OPSETS, ModelProto, check_opset, image_model, pack_types
from quant.deploy.lowering.int8 import Int8
from quant.deploy.lowering.qdq import Qdq
from quant.deploy.lowering.qlinear import QLinear
from quant.deploy.network import given_flags, network_parser
from quant.deploy.onnx_backend import FORMAT, OnnxNetwork
from quant.open import open_network
from quant.rebuilt import check_rebuilt
from quant.swap import is_quantized
from utility import FULL_PRECISION, UserError, add_force, atomic_path, check_output, run_main

log = logging.getLogger(__name__)

# which file of quant/deploy/lowering walks a network
LOWERINGS: dict[type[SuperResolver], ModuleType] = {EDSR: edsr, RDN: rdn, SRResNet: srresnet}
BITS = range(2, 7)
PACKING_OPSET = 21
CALIBRATION_IMAGES = 32
# what quant.verify holds a file to: luma PSNR of its images to PyTorch's
LEAST_PSNR = {"fp32": 38.0, "int8": 32.0}
CALIBRATION_SIDE = 192
FORMATS = ("qlinear", "qdq")
CHOICES = {"rest": ("fp32", "int8"), "format": FORMATS, "gates": ("run", "fold"), "weights": ("packed", "plain")}


def main(argv: Sequence[str] | None = None) -> int:
    """Read --refine, write --out, say which convolutions became integers; 1 where an image of --calib was left out."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parse(argv)
    _check(options, options.k_bits)
    network = open_network(options.refine, flag="--refine", **given_flags(options))
    _check(options, network.source.k_bits)
    path = network.source.path
    check_output(options.out, flag="--out", mark=FORMAT.encode(), inputs=[path], force=options.force)
    images, left_out = calibration_images(options.calib, network) if options.calib else (None, 0)
    exported = export(network, rest=options.rest, images=images, opset=options.opset, format=options.format,
                      symmetric=options.symmetric, weights=options.weights, gates=options.gates,
                      source={"file": path.name, "sha256": file_hash(path)})
    with atomic_path(options.out) as temporary:
        temporary.write_bytes(exported.SerializeToString())
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, opset {exported.opset_import[0].version}, "
          f"{summary(exported)}")
    return int(left_out > 0)


def _parse(argv):
    parser = network_parser("Export a network to ONNX, quantized convolutions in integers.")
    parser.add_argument("--refine", required=True, type=named_path,
                        help="what to export: a run's folder, a checkpoint, a packed file")
    parser.add_argument("--out", required=True, type=named_path, help="file to write, ending in .onnx")
    parser.add_argument("--rest", default="fp32", choices=CHOICES["rest"],
                        help="layers that DDTB does not quantize: fp32 (default), every value as in PyTorch, or "
                             "post-training int8, fast")
    parser.add_argument("--format", default="qlinear", choices=FORMATS,
                        help="qlinear (default): integer operators, fastest in ONNX Runtime; qdq: float operators "
                             "between QuantizeLinear and DequantizeLinear, for OpenVINO, TensorRT and NPUs")
    parser.add_argument("--symmetric", action="store_true",
                        help="--format qdq: features without zero points too, as TensorRT asks")
    parser.add_argument("--gates", default="run", choices=CHOICES["gates"],
                        help="run (default): gates compute bounds for each image; fold: each becomes the constant "
                             "factors of its mean over --calib, one static graph")
    parser.add_argument("--weights", choices=CHOICES["weights"],
                        help="quantized weights in the file: packed, 2 or 4 bits each, unpacked when a runtime loads "
                             "it; plain, 8 bits each, or 32 where a float convolution reads them (default: packed with "
                             "qlinear where --opset has such types, plain with qdq)")
    parser.add_argument("--calib", type=named_path,
                        help="folder of low-resolution images that --rest int8 and --gates fold are calibrated on")
    parser.add_argument("--opset", type=int,
                        help=f"ONNX operator set, {OPSETS.start} to {OPSETS.stop - 1} (default: the oldest that "
                             f"has all types, {DEFAULT_OPSET} with plain weights)")
    add_force(parser)
    return parser.parse_args(argv)


def _check(options, k_bits):
    if options.out.suffix != ".onnx":
        raise UserError(f"--out {options.out}: an ONNX file's name ends in .onnx")
    if k_bits not in (*BITS, FULL_PRECISION, None):
        raise UserError(f"--k_bits {k_bits}: 2 to 6 bits become integers, 32 stays float; levels of 7 and 8 "
                        "bits need not fit int8, and their products saturate on processors without VNNI")
    if options.rest == "int8" and k_bits == FULL_PRECISION:
        raise UserError("--rest int8: is for quantized networks; give one of 2 to 6 bits")
    if options.rest == "int8" and not options.calib:
        raise UserError("--rest int8: needs --calib, a folder of images like those to be upscaled")
    if options.gates == "fold" and k_bits == FULL_PRECISION:
        raise UserError("--gates fold: full-precision networks have no gates; drop it, or give one of 2 to 6 bits")
    if options.gates == "fold" and not options.calib:
        raise UserError("--gates fold: needs --calib, a folder of images like those to be upscaled")
    if options.calib and options.rest == "fp32" and options.gates == "run":
        raise UserError(f"--calib {options.calib}: --rest fp32 with --gates run needs no calibration; drop it, or give "
                        "--rest int8 or --gates fold")
    for flag in ("symmetric", "weights"):
        if getattr(options, flag) and k_bits == FULL_PRECISION:
            raise UserError(f"--{flag}: is for quantized weights and features; drop it for full precision")
    if options.format != "qlinear" and k_bits == FULL_PRECISION:
        raise UserError(f"--format {options.format}: full precision has no integers, so one form; leave it out")
    if options.opset is not None:
        check_opset(options.opset)
    if options.symmetric and options.format != "qdq":
        raise UserError(f"--symmetric: is for --format qdq; --format {options.format} always has zero points")
    if options.weights == "packed" and options.opset is not None and options.opset < PACKING_OPSET:
        raise UserError(f"--weights packed: needs --opset {PACKING_OPSET} or newer; give that, or --weights plain")


def calibration_images(folder: str | Path, network: SuperResolver) -> tuple[list[Tensor], int]:
    """Float32 [1, n_colors, h, w] of up to CALIBRATION_IMAGES images spread over the folder, each cut to its middle.

    network: whose range and colours they have. Returns them, and how many can't be read, which stderr tells. Raises
    UserError where all are black.
    """
    images, left_out = read_folder(folder, "--calib", lambda pixels: middle(pixels, network, CALIBRATION_SIDE),
                                   at_most=CALIBRATION_IMAGES)
    if all(image.max() <= network.rgb_range / 255 for image in images):
        raise UserError(f"--calib {folder}: its images are black in the middle, which counts; give others")
    log.info("calibrating on %d images of %s", len(images), folder)
    return images, left_out


def middle(pixels: np.ndarray, network: SuperResolver | OnnxNetwork, side: int) -> Tensor:
    """The middle of an image uint8 [h, w, 3], at most `side` a side: float32 [1, n_colors, h, w] in 0..rgb_range.

    Raises UserError for an image of which the border that PSNR leaves out would leave nothing.
    """
    if min(pixels.shape[:2]) <= 2:
        raise UserError("is at most 2 pixels high or wide, too small to compare; give larger images")
    top, left = (max(length - side, 0) // 2 for length in pixels.shape[:2])
    planes = to_planes(pixels[top : top + side, left : left + side])
    return to_values(planes, rgb_range=network.rgb_range, n_colors=network.n_colors)[None]


def _check_images(images, network):
    """Raise ValueError for images that are not float32 [1, n_colors, h, w] in the network's range."""
    for image in images:
        if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[:2] != (1, network.n_colors):
            raise ValueError(f"images: give a list of tensors [1, {network.n_colors}, h, w], not "
                             f"{list(getattr(image, 'shape', ())) or type(image).__name__}")
    if images and network.rgb_range > 1 and all(image.max() <= 1 for image in images):
        raise ValueError(f"images: no value is above 1, and the network's range is 0..{network.rgb_range:g}")


def export(network: SuperResolver, *, rest: str = "fp32", images: Sequence[Tensor] | None = None,
           opset: int | None = None, source: dict[str, str] | None = None, format: str = "qlinear",
           symmetric: bool = False, weights: str | None = None, gates: str = "run") -> ModelProto:
    """The ONNX model of a network in evaluation mode on the CPU, full-precision or quantized; checked.

    Input `lr` and output `sr` are float32 [batch, n_colors, height, width] in 0..rgb_range. rest: 'fp32', each level
    and each float as in PyTorch, or 'int8' (quantized networks alone), calibrated on `images`, float32
    [1, n_colors, h, w] each; `sr` then holds the values of an 8-bit image. gates: 'run', or 'fold', to constant factors
    by `images`. format, symmetric, weights, opset: as --format, --symmetric, --weights and --opset. source: {"file",
    "sha256"}, for the metadata. Raises UserError for a network whose levels integers can't hold, which nothing here
    lowers, or which was changed by hand, and without images for 'int8' and 'fold'; ValueError for values and images
    that can't be, a network that is not in float32, and one that does not quantize yet.
    """
    lowering = lowering_of(network)
    images = [] if images is None else list(images)
    for setting, value in (("rest", rest), ("gates", gates), ("format", format), ("weights", weights)):
        if value not in CHOICES[setting] and (setting, value) != ("weights", None):
            raise ValueError(f"{setting} {value!r}: choose {' or '.join(CHOICES[setting])}")
        if value in ("int8", "fold") and not images:
            raise UserError(f"{setting}='{value}': needs images like those to be upscaled, to calibrate on")
    if symmetric and format != "qdq":
        raise ValueError(f"symmetric: is for format 'qdq', not '{format}'")
    if weights == "packed" and opset is not None and opset < PACKING_OPSET:
        raise ValueError(f"weights 'packed': need opset {PACKING_OPSET} or newer")
    check_finished(network)
    check_rebuilt(network)
    if other := {one.dtype for one in network.state_dict().values() if one.is_floating_point()} - {torch.float32}:
        raise ValueError(f"the network has tensors in {min(map(str, other))}; call float() first")
    _check_images(images, network)
    network, folded = fold_gates(network, images) if gates == "fold" else (network, {})
    graph, rgb_range = _graph(network, format, symmetric, weights, opset), network.rgb_range
    gated = gates_in_use(network).values()
    widest = max((quantizer.k_bits for quantizer in gated), default=0)
    if format == "qlinear" and widest > MOST_GATED_BITS:
        raise UserError(f"--format qlinear: holds no {widest}-bit feature behind a gate (--skip_bits {widest}); give "
                        "--format qdq or --gates fold")
    if rest == "int8":
        sr = lowering.lower_int8(Int8(graph, calibrate(network, images), rgb_range=rgb_range), network)
    else:
        sr = lowering.lower_exact(graph, network)
    bits = network.quant_config.k_bits if is_quantized(network) else FULL_PRECISION
    metadata = {"format": FORMAT, "network": {"name": model.name_of(network), **network.settings}, "k_bits": bits,
                "rgb_range": network.rgb_range,
                "quant": network.quant_config.trained() if is_quantized(network) else {},
                "rest": rest, "source": source, "operators": format, "symmetric": symmetric,
                "gates": "fold" if folded else "run" if gated else "none",
                "folded": folded, "levels": {name: graph.described(codes) for name, codes in graph.recorded.items()},
                "convolutions": graph.convolutions,
                "least_db": LEAST_PSNR[rest]}
    return image_model(graph, sr, channels=network.n_colors, scale=network.scale, opset=opset,
                       per_image=graph.runtime_scales and bool(gated),
                       metadata={key: json.dumps(value) for key, value in metadata.items()})


def lowering_of(network: SuperResolver) -> ModuleType:
    """The module that lowers a network, by its `lower_exact` and `lower_int8`. Raises UserError where there is none."""
    if type(network) not in LOWERINGS:
        raise UserError(f"--model {type(network).__name__}: can be trained, tested and packed, not exported; "
                        f"{', '.join(kind.__name__ for kind in LOWERINGS)} can")
    if is_quantized(network) and network.quant_config.quantizer != "ddtb":
        raise UserError(f"--quantizer {network.quant_config.quantizer}: can be trained and tested, not exported; "
                        "ddtb can")
    return LOWERINGS[type(network)]


def _graph(network, format, symmetric, weights, opset):
    """The empty graph of a --format."""
    packed = weights == "packed" or weights is None and format == "qlinear"
    if format == "qdq":  # OpenVINO reads no INT2
        return Qdq(network, packed=pack_types(opset, (4,)) if packed else None, symmetric=symmetric)
    return QLinear(network, packed=pack_types(opset) if packed else None)


def summary(exported: ModelProto) -> str:
    """How many convolutions became integers, in words."""
    counts = next(json.loads(entry.value) for entry in exported.metadata_props if entry.key == "convolutions")
    return f"{counts.get('in integers', 0)} convolutions in integers, {counts.get('in float', 0)} in float"


if __name__ == "__main__":
    sys.exit(run_main(main))
