"""The whole story in minutes: `make demo`. Train EDSR x4, quantize it to 4 bit with DDTB, test both, show a picture.

Everything is done by the project's own programs, with small numbers; each command is printed before it runs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

import model
from data.images import read_image
from data.imresize import imresize
from metrics.figure import crop_figure, save_figure
from metrics.functional import psnr, ssim
from option import EXPERIMENT_ROOT
from quant import QuantConfig, quantize
from quant.weight import QuantConv2d

SCALE, K_BITS = 4, 4
FULL, LOW = EXPERIMENT_ROOT / "demo" / "edsr_x4", EXPERIMENT_ROOT / "demo" / "edsr_x4_4bit"
SHOWN = "coffee"


def main(argv=None):
    """Run every step and print the table. A step that fails ends the demo with its exit code."""
    options = parse(argv)
    train = ["--patch_size", "96", "--batch_size", "8", "--print_every", "10", "--epochs", options.epochs,
             "--test_every", options.test_every]
    common = ["--model", "EDSR", "--scale", SCALE, "--dir_data", options.dir_data, "--data_range", "1-1000/1-1",
              "--data_test", "DemoSet", "--n_threads", "1", "--cpu", "--n_resblocks", options.n_resblocks]
    low = [*common, "--k_bits", K_BITS, "--dynamic_ratio", "0.3"]

    run("-m", "data.demo_set", "--out", options.dir_data)
    run("main_ori.py", *common, *train, "--lr", "4e-4", "--decay", "3", "--save", "demo/edsr_x4", "--reset")
    run("main_limitrange_incremental.py", *low, *train, "--pre_train", FULL / "model" / "model_best.pth.tar",
        "--save", "demo/edsr_x4_4bit", "--reset")
    run("main_ori.py", *common, "--test_only", "--save_results", "--save", "demo/edsr_x4")
    run("main_limitrange_incremental.py", *low, "--test_only", "--save_results", "--save", "demo/edsr_x4_4bit")

    hr_folder = Path(options.dir_data) / "benchmark" / "DemoSet" / "HR"
    network = model.NETWORKS["edsr"](scale=SCALE, n_resblocks=options.n_resblocks)
    print_table(hr_folder, network)
    print(f"\npicture: {draw(hr_folder).resolve()}")
    return 0


def parse(argv):
    """The demo's own few flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir_data", default="datasets/demo", help="data root to make (default: %(default)s)")
    parser.add_argument("--test_every", type=int, default=40, help="batches in an epoch (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=9, help="epochs to train, 7 or more (default: %(default)s)")
    parser.add_argument("--n_resblocks", type=int, default=16, help="residual blocks (default: %(default)s)")
    return parser.parse_args(argv)


def run(*arguments):
    """Run python with the arguments, showing the command; stop the demo where it fails."""
    command = list(map(str, arguments))
    print(f"\n$ python {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, *command]).returncode
    if code:
        sys.exit(code)


def print_table(hr_folder, network):
    """Bicubic, full precision and 4 bit: mean luma PSNR and SSIM, seconds for the set, size of the weights."""
    rows = [("bicubic", *bicubic_scores(hr_folder), None, None),
            ("full precision", *scores(FULL), size_in_bytes(network)),
            (f"DDTB {K_BITS} bit", *scores(LOW), size_in_bytes(quantize(network, QuantConfig(K_BITS))))]
    print(f"\n{'DemoSet x4':16}{'PSNR':>8}{'SSIM':>9}{'seconds':>9}{'weights':>11}")
    for name, decibel, similarity, seconds, size in rows:
        cost = f"{seconds:9.2f}{size / 1e6:8.2f} MB" if size else ""
        print(f"{name:16}{decibel:8.2f}{similarity:9.4f}{cost}")


def scores(folder):
    """(PSNR, SSIM, seconds) of a run's last test."""
    last = json.loads((folder / "eval.txt").read_text().splitlines()[-1])
    return last["psnr"], last["ssim"], last["seconds"]


def bicubic_scores(hr_folder):
    """(PSNR, SSIM) of MATLAB's bicubic upscaling, means over the set."""
    pairs = [(as_tensor(bicubic(path)), as_tensor(read_image(path))) for path in sorted(hr_folder.glob("*.png"))]
    measured = [(psnr(sr, hr[:, : sr.shape[1], : sr.shape[2]], border=SCALE),
                 ssim(sr, hr[:, : sr.shape[1], : sr.shape[2]], border=SCALE)) for sr, hr in pairs]
    return [sum(values) / len(values) for values in zip(*measured, strict=True)]


def bicubic(hr_path):
    """The set's LR image for an HR file, scaled up again; uint8 [H, W, 3]."""
    return imresize(low_resolution(hr_path), SCALE)


def low_resolution(hr_path):
    """The set's LR image for an HR file; uint8 [h, w, 3]."""
    return read_image(hr_path.parent.parent / "LR_bicubic" / f"X{SCALE}" / f"{hr_path.stem}x{SCALE}.png")


def as_tensor(image):
    """uint8 [H, W, 3] to a tensor [3, H, W]."""
    return torch.from_numpy(image).permute(2, 0, 1)


def size_in_bytes(network):
    """What the weights need when those of quantized convolutions are kept in their bits."""
    quantized = {id(conv.weight): conv.k_bits for conv in network.modules() if isinstance(conv, QuantConv2d)}
    return sum(parameter.numel() * quantized.get(id(parameter), 32) for parameter in network.parameters()) // 8


def draw(hr_folder):
    """LR, bicubic, full precision, 4 bit and HR crops of one image side by side; returns the picture's path."""
    path = hr_folder / f"{SHOWN}.png"
    results = {
        "LR": low_resolution(path).repeat(SCALE, 0).repeat(SCALE, 1),
        "bicubic": bicubic(path),
        "full precision": read_image(FULL / "results-DemoSet" / f"32bit_{SHOWN}_x{SCALE}_SR.png"),
        f"DDTB {K_BITS} bit": read_image(LOW / "results-DemoSet" / f"{K_BITS}bit_{SHOWN}_x{SCALE}_SR.png"),
    }
    height, width = results["bicubic"].shape[:2]
    picture = EXPERIMENT_ROOT / "demo" / "comparison.png"
    save_figure(crop_figure(read_image(path)[:height, :width], results, border=SCALE), picture)
    return picture


if __name__ == "__main__":
    sys.exit(main())
