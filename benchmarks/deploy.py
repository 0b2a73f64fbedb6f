"""Speed of deployed networks on the CPU: PyTorch, ONNX Runtime and OpenVINO, full precision and quantized, in one run.

python benchmarks/deploy.py [--model edsr] [--k_bits 4 --scale 4] [--sizes 120x120 320x180] [--threads 2] [--json]

Medians of runs in which the candidates take turns, and their speed against full precision in ONNX Runtime. int8 is
`--rest int8`: integer operators in ONNX Runtime, --format qdq in OpenVINO; folded is --gates fold. Weights are those of
pretrained/ where it has the network, since they decide how many channels an int8 export repeats, else random; bounds
start from a photograph as in training, and the published share of quantizers has gates. The limit is what a runtime
reaches on a 64->64 3x3 convolution alone, sixteen of them in a row at the same size; `reach` is a network's own rate as
a share of it.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import skimage
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import argument_parser, built, milliseconds, models, show  # noqa: E402
from data.images import read_image  # noqa: E402
from data.imresize import imresize  # noqa: E402
from data.pictures import to_planes, to_values  # noqa: E402
from examples.budgets import RATIOS  # noqa: E402
from examples.stages import full_precision_file  # noqa: E402
from quant.activation import quantizers  # noqa: E402
from quant.cost import conv_costs  # noqa: E402
from quant.deploy.lowering.image_model import image_model  # noqa: E402
from quant.deploy.lowering.levels import Grid, IntegerWeight  # noqa: E402
from quant.deploy.lowering.qdq import Qdq  # noqa: E402
from quant.deploy.lowering.qlinear import QLinear  # noqa: E402
from quant.deploy.onnx_backend import SESSIONS  # noqa: E402
from quant.export import export  # noqa: E402
from utility import UserError, run_main, whole_number  # noqa: E402

BASE = "float, ONNX Runtime"
CANDIDATES = ("float, PyTorch", BASE, "float, OpenVINO", "fake quantization, PyTorch", "rest fp32, ONNX Runtime",
              "int8, ONNX Runtime", "int8 folded, ONNX Runtime", "int8, OpenVINO", "int8 folded, OpenVINO")
RUNTIMES = {"ONNX Runtime": "onnx", "OpenVINO": "openvino"}
LIMIT_CONVS, LIMIT_CHANNELS = 16, 64
PATCH = 48


def photograph(scale):
    """A real LR image, float32 [1, 3, h, w]."""
    pixels = read_image(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return to_values(to_planes(imresize(pixels, 1 / scale)))[None]


def networks(name, args):
    """(full precision, quantized with bounds from a photograph and its gates on), in evaluation mode."""
    _, full, low = built(name, args, weights=full_precision_file(f"{name}_x{args.scale}"))
    lr = photograph(args.scale)
    with torch.no_grad():
        low.train()(torch.cat([lr[:, :, :PATCH, :PATCH], lr[:, :, -PATCH:, -PATCH:]]))
    members = list(quantizers(low).values())
    share = RATIOS[name]
    for index, quantizer in enumerate(members):
        quantizer.set_dynamic(int((index + 1) * share) > int(index * share))
    return full.eval(), low.eval()


def runner(exported, runtime, threads):
    """A function of a NumPy batch that runs a model in memory in one of RUNTIMES."""
    session = SESSIONS[RUNTIMES[runtime]](Path("benchmark.onnx"), threads, exported.SerializeToString())
    return lambda lr: session.run(["sr"], {"lr": lr})


def here(candidates):
    """Those whose runtime is installed."""
    return [key for key in candidates if not key.endswith("OpenVINO") or find_spec("openvino")]


def runners(name, args):
    """({candidate: function of lr}, MACs of one LR pixel)."""
    full, low = networks(name, args)
    photo = [photograph(args.scale)]
    forms = {"float": lambda format: export(full), "rest fp32": lambda format: export(low),
             "int8": lambda format: export(low, rest="int8", images=photo, format=format),
             "int8 folded": lambda format: export(low, rest="int8", images=photo, format=format, gates="fold")}
    runs = {"float, PyTorch": full, "fake quantization, PyTorch": low}
    for key in here(CANDIDATES):
        form, runtime = key.split(", ")
        if runtime in RUNTIMES:
            run = runner(forms[form]("qdq" if runtime == "OpenVINO" else "qlinear"), runtime, args.threads)
            runs[key] = lambda lr, run=run: run(lr.numpy())
    macs = sum(cost.macs for cost in conv_costs(full)) * args.scale**2
    return {key: runs[key] for key in here(CANDIDATES)}, macs


def limit_runners(height, width, args):
    """{'float, RUNTIME', 'int8, RUNTIME': function that runs LIMIT_CONVS convolutions there}."""
    feature = np.random.default_rng(0).normal(size=(1, LIMIT_CHANNELS, height, width)).astype(np.float32)
    made = {"float": _float_conv, "int8": _integer_conv}
    limits = {}
    for key in here(f"{form}, {runtime}" for form in made for runtime in RUNTIMES):
        form, runtime = key.split(", ")
        kind = Qdq if runtime == "OpenVINO" else QLinear
        graph = kind(torch.nn.Identity())
        convs = image_model(graph, made[form](graph), channels=LIMIT_CHANNELS, scale=1, per_image=False, metadata={})
        run = runner(convs, runtime, args.threads)
        limits[f"limit: {key}"] = lambda run=run: run(feature)
    return limits


def _float_conv(graph):
    x = "lr"
    for number in range(LIMIT_CONVS):
        x = graph.float_conv(x, graph.constant(_weights(number) * 0.01, np.float32), 3, np.zeros(LIMIT_CHANNELS))
    return x


def _integer_conv(graph):
    grid = Grid(0.1, 0, 0, 255)
    codes = graph.quantize("lr", grid, LIMIT_CHANNELS)
    for number in range(LIMIT_CONVS):
        codes = graph.code_conv(codes, IntegerWeight(_weights(number), 0.01), np.zeros(LIMIT_CHANNELS), grid)
    return graph.dequantize(codes)


def _weights(seed):
    return np.random.default_rng(seed).integers(-8, 8, (LIMIT_CHANNELS, LIMIT_CHANNELS, 3, 3))


def measure(name, runs, macs, height, width, args):
    """The result of one network and size."""
    lr = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, height, width)).astype(np.float32))
    limits = limit_runners(height, width, args)
    with torch.no_grad():
        ms = milliseconds({**{key: lambda run=run: run(lr) for key, run in runs.items()}, **limits},
                          repeats=args.repeats, clock=args.clock)
    convs = LIMIT_CONVS * LIMIT_CHANNELS**2 * 9
    limit = {key.removeprefix("limit: "): convs * height * width / ms.pop(key) / 1e6 for key in limits}
    reach = {key: macs * height * width / value / 1e6 / limit[key.replace(" folded", "")] for key, value in ms.items()
             if key.replace(" folded", "") in limit}
    return {"bench": "deploy", "model": name, "scale": args.scale, "k_bits": args.k_bits, "lr": f"{width}x{height}",
            "threads": args.threads, "clock": args.clock, "ms": {key: round(value, 1) for key, value in ms.items()},
            "speed_over_float_onnx": {key: round(ms[BASE] / value, 2) for key, value in ms.items()},
            "speed_over_float_torch": {key: round(ms[CANDIDATES[0]] / value, 2) for key, value in ms.items()},
            "limit_gmac_s": {key: round(value, 1) for key, value in limit.items()},
            "reach": {key: round(value, 2) for key, value in reach.items()}}


def lines(one):
    """A result as lines."""
    limits = ", ".join(f"{key} {value:.0f}" for key, value in one["limit_gmac_s"].items())
    found = [f"{one['model']} x{one['scale']}, {one['k_bits']} bit, LR {one['lr']}, {one['threads']} thread(s), "
             f"{one['clock']} time; limits in GMAC/s: {limits}"]
    for key, value in one["ms"].items():
        reach = f", {100 * one['reach'][key]:.0f} % of the limit" if key in one["reach"] else ""
        found.append(f"  {key:27}{value:10.1f} ms  {one['speed_over_float_onnx'][key]:5.2f}x float ONNX Runtime  "
                     f"{one['speed_over_float_torch'][key]:5.2f}x float PyTorch{reach}")
    return "\n".join(found)


def main(argv=None):
    parser = argument_parser(__doc__, model="all", scale=4, k_bits=4, threads=os.cpu_count(), repeats=7, clock="wall")
    parser.add_argument("--sizes", nargs="+", default=["120x120", "320x180"],
                        help="LR images, WIDTHxHEIGHT (default: %(default)s)")
    args = parser.parse_args(argv)
    sizes = [tuple(map(whole_number, size.split("x"))) for size in args.sizes]
    if wrong := [text for text, size in zip(args.sizes, sizes, strict=True) if len(size) != 2 or not all(size)]:
        raise UserError(f"--sizes {wrong[0]}: give WIDTHxHEIGHT, as 120x120")
    for name in models(args):
        runs, macs = runners(name, args)
        for width, height in sizes:
            show(measure(name, runs, macs, height, width, args), args.json, lines)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
