r"""What deployment does to a network's results: packed, exported with --rest fp32 and int8, against PyTorch.

    python benchmarks/deploy_quality.py RUN_OR_FILE [...] --dir_data datasets --data_test Set5 --calib LR_IMAGES \
        [--format qdq] [--gates fold] [--backend openvino]

For each quantized network: mean luma PSNR of each form on the test set, the share of 8-bit values that equal PyTorch's,
whether the packed file gives PyTorch's values to the bit, and what each file takes up.
"""

import sys
import tempfile
from pathlib import Path
from statistics import fmean

import onnx
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import model  # noqa: E402
from benchmarks.common import argument_parser, show  # noqa: E402
from data.build import build_test_sets  # noqa: E402
from metrics.functional import psnr  # noqa: E402
from option import parse_options  # noqa: E402
from quant.deploy.lowering.fold import in_8_bits  # noqa: E402
from quant.deploy.onnx_backend import SESSIONS, OnnxNetwork  # noqa: E402
from quant.deploy.packed import write_packed  # noqa: E402
from quant.export import FORMATS, calibration_images, export  # noqa: E402
from quant.open import open_network  # noqa: E402
from utility import UserError, run_main  # noqa: E402

FORMS = ("PyTorch", "packed", "fp32", "int8")


def main(argv=None):
    """Measure every network, print a row each. Raises UserError for a user's mistake."""
    parser = argument_parser(__doc__, threads=1)
    add = parser.add_argument
    add("networks", nargs="+", type=Path, help="quantized networks: runs' folders or files")
    add("--dir_data", required=True, help="data root")
    add("--data_test", default="Set5", help="test set (default: %(default)s)")
    add("--calib", required=True, help="folder of LR images that int8 is calibrated on")
    add("--format", default="qlinear", choices=FORMATS, help="as quant.export has it (default: %(default)s)")
    add("--gates", default="run", choices=("run", "fold"), help="as quant.export has it (default: %(default)s)")
    add("--backend", default="onnx", choices=tuple(SESSIONS), help="what runs the files (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if not args.json:
        print("| network | bits | PyTorch dB | fp32 | int8 | equal: packed | fp32 | int8 | MB: packed | fp32 | int8 |")
        print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for path in args.networks:
        show(measure(path, args), args.json, row)
    return 0


def forms(path, args, folder):
    """({form: network}, {form: bytes on disk}) of one quantized network; files are written to `folder`."""
    network = open_network(path)
    files = {form: folder / f"{form}.{suffix}" for form, suffix in
             (("packed", "safetensors"), ("fp32", "onnx"), ("int8", "onnx"))}
    write_packed(network, files["packed"], source=network.source.path)
    images, _ = calibration_images(args.calib, network)
    exported = {form: files[form] for form in ("fp32", "int8")}
    for form, file in exported.items():
        onnx.save(export(network, rest=form, images=images, format=args.format, gates=args.gates), file)
    made = {"PyTorch": network, "packed": open_network(files["packed"]),
            **{form: OnnxNetwork(file, threads=args.threads, runtime=args.backend) for form, file in exported.items()}}
    return made, {form: file.stat().st_size for form, file in files.items()}


def measure(path, args):
    """The result of one network, as --json prints it."""
    with tempfile.TemporaryDirectory() as folder:
        made, sizes = forms(path, args, Path(folder))
    network = made["PyTorch"]
    flags = ["--scale", str(network.scale), "--data_test", args.data_test, "--dir_data", args.dir_data, "--test_only",
             "--n_colors", str(network.n_colors), "--rgb_range", str(network.rgb_range)]
    if len(test_sets := build_test_sets(parse_options(flags, quantized=True))) != 1:
        raise UserError(f"--data_test {args.data_test}: give one set a run")
    test_set = test_sets[0]
    decibels, equal = {form: [] for form in FORMS}, {form: [] for form in FORMS}
    for index in range(len(test_set)):
        lr, hr, _ = test_set[index]
        with torch.inference_mode():
            images = {form: in_8_bits(run(lr[None])[0], network.rgb_range) for form, run in made.items()}
        for form, image in images.items():
            decibels[form].append(psnr(image, in_8_bits(hr, network.rgb_range), border=test_set.border,
                                       luma=test_set.luma))
            equal[form].append((image == images["PyTorch"]).float().mean().item())
    return {"bench": "deploy_quality", "model": model.name_of(network), "scale": network.scale,
            "k_bits": network.quant_config.k_bits, "set": test_set.name,
            "psnr": {form: round(fmean(values), 4) for form, values in decibels.items()},
            "equal": {form: round(fmean(values), 4) for form, values in equal.items()},
            "bytes": sizes}


def row(one):
    """A result in Markdown."""
    decibels, equal = one["psnr"], one["equal"]
    gaps = [f"{decibels[form] - decibels['PyTorch']:+.3f}" for form in ("fp32", "int8")]
    cells = [f"{one['model']} x{one['scale']}", one["k_bits"], f"{decibels['PyTorch']:.3f}", *gaps,
             *(f"{equal[form]:.2%}" for form in FORMS[1:]), *(f"{one['bytes'][form] / 1e6:.2f}" for form in FORMS[1:])]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    sys.exit(run_main(main))
