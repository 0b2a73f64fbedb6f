"""The whole story in minutes: `make demo`. Quantize the shipped EDSR x4 to 4 bit, test both, show a picture.

Everything is done by the project's own programs, with small numbers; each command is printed before it runs.
"""

import argparse
import sys
import time
from pathlib import Path

import model
from data.images import read_image
from data.imresize import imresize
from data.pictures import to_planes
from examples import ROOT, run
from metrics.figure import crop_figure, save_figure
from metrics.functional import psnr, ssim
from metrics.pairs import crop_to
from metrics.results import result_lines
from option import EXPERIMENT_ROOT
from quant import cost, open_network
from utility import first_line, run_main

SCALE, K_BITS = 4, 4
SHIPPED = ROOT / "pretrained" / "edsr_baseline_x4.pt"
FULL, LOW = EXPERIMENT_ROOT / "demo" / "edsr_x4", EXPERIMENT_ROOT / "demo" / "edsr_x4_4bit"
SHOWN = "astronaut"


def main(argv=None):
    """Run every step and print the table. Returns the exit code, that of the step that failed if one did."""
    options = parse(argv)
    start = time.perf_counter()
    for step in steps(options):
        if code := run(step):
            return code
    hr_paths = sorted((options.dir_data / "benchmark" / "DemoSet" / "HR").glob("*.png"))
    print_table(hr_paths, model.NETWORKS["edsr"](scale=SCALE, n_resblocks=options.n_resblocks))
    print(f"\npicture: {draw(next(path for path in hr_paths if path.stem == SHOWN)).resolve()}")
    print(f"everything took {time.perf_counter() - start:.0f} seconds")
    return 0


def parse(argv):
    """The demo's own few flags."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--dir_data", type=Path, default=Path("datasets/demo"), help="data root, made where missing")
    parser.add_argument("--pre_train", type=Path, default=SHIPPED, help="full-precision EDSR x4 to start from")
    parser.add_argument("--n_resblocks", type=int, default=16, help="its residual blocks")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of quantization, gates are applied from the 6th")
    parser.add_argument("--steps", type=int, default=60, help="steps in each of them")
    return parser.parse_args(argv)


def steps(options):
    """The command lines, lists of text, in their order."""
    network = ["--model", "EDSR", "--scale", SCALE, "--n_resblocks", options.n_resblocks, "--cpu",
               "--dir_data", options.dir_data, "--data_range", "1-1000/1-1", "--data_test", "DemoSet"]
    quantized = ["--k_bits", K_BITS, "--dynamic_ratio", "0.3"]
    train = ["--patch_size", "48", "--batch_size", "8", "--n_threads", "0", "--print_every", "20", "--reset",
             "--epochs", options.epochs, "--test_every", options.steps, "--lr", "4e-4", "--decay", "5-6-7",
             "--pre_train", options.pre_train]
    to_full, to_low = ["--save", "demo/edsr_x4"], ["--save", "demo/edsr_x4_4bit"]
    test = ["--test_only", "--save_results"]
    commands = [
        ["data.demo_set", "--out", options.dir_data],
        ["main_ori.py", *network, *test, "--refine", options.pre_train, *to_full],
        ["main_limitrange_incremental.py", *network, *quantized, *train, *to_low],
        ["main_limitrange_incremental.py", *network, *quantized, *test, *to_low],
    ]
    return [list(map(str, command)) for command in commands]


def print_table(hr_paths, network):
    """Bicubic, full precision and quantized: mean luma PSNR and SSIM, seconds for the set, size of the weights."""
    rows = [("bicubic", *bicubic_scores(hr_paths), None, None),
            ("full precision", *scores(FULL), size_in_bytes(network)),
            (f"DDTB {K_BITS} bit", *scores(LOW), size_in_bytes(open_network(LOW)))]
    print(f"\n{'DemoSet x4':16}{'PSNR':>8}{'SSIM':>9}{'seconds':>9}{'weights':>11}")
    for name, decibel, similarity, seconds, size in rows:
        costs = f"{seconds:9.2f}{size / 1e6:8.2f} MB" if size else ""
        print(f"{name:16}{decibel:8.2f}{similarity:9.4f}{costs}")


def scores(folder):
    """(PSNR, SSIM, seconds) of a run's last test."""
    *_, (_, last) = result_lines(folder / "eval.txt")
    return last["psnr"], last["ssim"], last["seconds"]


def bicubic_scores(hr_paths):
    """(PSNR, SSIM) of MATLAB's bicubic upscaling, means over the set."""
    srs = [bicubic(path) for path in hr_paths]
    hrs = [crop_to(read_image(path), sr, scale=SCALE) for path, sr in zip(hr_paths, srs, strict=True)]
    measured = [[measure(to_planes(sr), to_planes(hr), border=SCALE) for measure in (psnr, ssim)]
                for sr, hr in zip(srs, hrs, strict=True)]
    return [sum(values) / len(values) for values in zip(*measured, strict=True)]


def size_in_bytes(network):
    """What the weights take up when quantized ones are kept in their bits, and of the gates only those in use."""
    found = cost.summary(network)
    return found["storage_bytes"] + found["gates"]["bits"] / 8


def draw(hr_path):
    """LR, bicubic, full precision, quantized and HR crops of one image side by side; returns the picture's path."""
    upscaled = bicubic(hr_path)
    results = {
        "LR": low_resolution(hr_path).repeat(SCALE, 0).repeat(SCALE, 1),
        "bicubic": upscaled,
        "full precision": read_image(FULL / "results-DemoSet" / f"32bit_{hr_path.stem}_x{SCALE}_SR.png"),
        f"DDTB {K_BITS} bit": read_image(LOW / "results-DemoSet" / f"{K_BITS}bit_{hr_path.stem}_x{SCALE}_SR.png"),
    }
    picture = EXPERIMENT_ROOT / "demo" / "comparison.png"
    hr = crop_to(read_image(hr_path), upscaled, scale=SCALE)
    save_figure(crop_figure(hr, results, border=SCALE), picture)
    return picture


def bicubic(hr_path):
    """The set's LR image for an HR file, scaled up again; uint8 [H, W, 3]."""
    return imresize(low_resolution(hr_path), SCALE)


def low_resolution(hr_path):
    """The set's LR image for an HR file; uint8 [h, w, 3]."""
    return read_image(hr_path.parent.parent / "LR_bicubic" / f"X{SCALE}" / f"{hr_path.stem}x{SCALE}.png")


if __name__ == "__main__":
    sys.exit(run_main(main))
