"""Speed of deployed networks on the CPU: PyTorch and ONNX Runtime, full precision and quantized, in one run.

python benchmarks/deploy.py [--model edsr] [--k_bits 4 --scale 4] [--sizes 120x120 320x180] [--threads 2] [--json]

Medians of runs in which the five candidates take turns, and their speed against full precision in ONNX Runtime. Weights
are random, bounds start from a photograph as in training, and the published share of quantizers has gates: none of that
changes the speed. The limit is what ONNX Runtime reaches on a 64->64 3x3 convolution alone, sixteen of them in a row
at the same size; `reach` is a network's own rate as a share of it.
"""

import argparse
import copy
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import skimage
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import model  # noqa: E402
from benchmarks.common import DYNAMIC_RATIOS, milliseconds  # noqa: E402
from data.images import read_image  # noqa: E402
from data.imresize import imresize  # noqa: E402
from data.patches import to_planes, to_values  # noqa: E402
from option import parse_options  # noqa: E402
from quant import QuantConfig, quantize  # noqa: E402
from quant.activation import quantizers  # noqa: E402
from quant.cost import conv_costs  # noqa: E402
from quant.deploy.lowering.graph import image_model  # noqa: E402
from quant.deploy.lowering.levels import Grid, IntegerWeight  # noqa: E402
from quant.deploy.lowering.qlinear import QLinear  # noqa: E402
from quant.export import export  # noqa: E402

CANDIDATES = ("float, PyTorch", "float, ONNX Runtime", "fake quantization, PyTorch", "integers, rest fp32",
              "integers, rest int8")
BASE = CANDIDATES[1]
LIMIT_CONVS, LIMIT_CHANNELS = 16, 64
PATCH = 48


def photograph(scale):
    """A real LR image, float32 [1, 3, h, w]."""
    pixels = read_image(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return to_values(to_planes(imresize(pixels, 1 / scale)))[None]


def networks(name, args):
    """(full precision, quantized with bounds from a photograph and its gates on), in evaluation mode."""
    torch.manual_seed(1)
    options = parse_options(["--model", name, "--scale", str(args.scale), "--k_bits", str(args.k_bits)], quantized=True)
    full = model.build(options)
    low = quantize(copy.deepcopy(full), QuantConfig(options.k_bits)).train()
    lr = photograph(args.scale)
    with torch.no_grad():
        low(torch.cat([lr[:, :, :PATCH, :PATCH], lr[:, :, -PATCH:, -PATCH:]]))
    members = list(quantizers(low).values())
    share = DYNAMIC_RATIOS[name]
    for index, quantizer in enumerate(members):
        quantizer.set_dynamic(int((index + 1) * share) > int(index * share))
    return full.eval(), low.eval()


def session(exported, threads):
    """An ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runners(name, args):
    """({candidate: function of lr}, MACs of one LR pixel)."""
    full, low = networks(name, args)
    exported = {BASE: export(full), CANDIDATES[3]: export(low),
                CANDIDATES[4]: export(low, rest="int8", images=[photograph(args.scale)])}
    runs = {CANDIDATES[0]: full, CANDIDATES[2]: low}
    for key, onnx_model in exported.items():
        loaded = session(onnx_model, args.threads)
        runs[key] = lambda lr, loaded=loaded: loaded.run(["sr"], {"lr": lr.numpy()})
    macs = sum(cost.macs for cost in conv_costs(full)) * args.scale**2
    return {key: runs[key] for key in CANDIDATES}, macs


def limit_runners(height, width, args):
    """{'float', 'int8': function that runs LIMIT_CONVS convolutions in ONNX Runtime}."""
    feature = np.random.default_rng(0).normal(size=(1, LIMIT_CHANNELS, height, width)).astype(np.float32)
    loaded = {key: session(_row_of_convs(make), args.threads)
              for key, make in (("float", _float_conv), ("int8", _integer_conv))}
    return {key: lambda one=one: one.run(["sr"], {"lr": feature}) for key, one in loaded.items()}


def _row_of_convs(make):
    graph = QLinear(torch.nn.Identity())
    return image_model(graph, make(graph), channels=LIMIT_CHANNELS, scale=1, per_image=False, metadata={})


def _float_conv(graph):
    x = "lr"
    for number in range(LIMIT_CONVS):
        x = graph.float_conv(x, _weights(number) * 0.01, np.zeros(LIMIT_CHANNELS))
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
    with torch.no_grad():
        ms = milliseconds({**{key: lambda run=run: run(lr) for key, run in runs.items()},
                           **limit_runners(height, width, args)}, device=torch.device("cpu"), repeats=args.repeats)
    convs = LIMIT_CONVS * LIMIT_CHANNELS**2 * 9
    limit = {key: convs * height * width / ms.pop(key) / 1e6 for key in ("float", "int8")}
    rates = {key: macs * height * width / value / 1e6 for key, value in ms.items()}
    return {"bench": "deploy", "model": name, "scale": args.scale, "k_bits": args.k_bits, "lr": f"{width}x{height}",
            "threads": args.threads, "ms": {key: round(value, 1) for key, value in ms.items()},
            "speed_over_float_onnx": {key: round(ms[BASE] / value, 2) for key, value in ms.items()},
            "speed_over_float_torch": {key: round(ms[CANDIDATES[0]] / value, 2) for key, value in ms.items()},
            "limit_gmac_s": {key: round(value, 1) for key, value in limit.items()},
            "reach": {BASE: round(rates[BASE] / limit["float"], 2),
                      CANDIDATES[4]: round(rates[CANDIDATES[4]] / limit["int8"], 2)}}


def show(one, as_json):
    """Print a result."""
    if as_json:
        print(json.dumps(one), flush=True)
        return
    print(f"{one['model']} x{one['scale']}, {one['k_bits']} bit, LR {one['lr']}, {one['threads']} thread(s); limit: "
          f"float {one['limit_gmac_s']['float']:.0f}, int8 {one['limit_gmac_s']['int8']:.0f} GMAC/s")
    for key, value in one["ms"].items():
        reach = f", {100 * one['reach'][key]:.0f} % of the limit" if key in one["reach"] else ""
        print(f"  {key:27}{value:10.1f} ms  {one['speed_over_float_onnx'][key]:5.2f}x float ONNX Runtime  "
              f"{one['speed_over_float_torch'][key]:5.2f}x float PyTorch{reach}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="all", choices=(*DYNAMIC_RATIOS, "all"), help="network (default: each in turn)")
    add("--scale", type=int, default=4, help="magnification (default: %(default)s)")
    add("--k_bits", type=int, default=4, help="bits of the quantized network (default: %(default)s)")
    add("--sizes", nargs="+", default=["120x120", "320x180"], help="LR images, WIDTHxHEIGHT (default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="threads (default: %(default)s)")
    add("--repeats", type=int, default=7, help="how often each candidate runs (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    sizes = [tuple(int(side) for side in size.split("x")) for size in args.sizes]
    for name in DYNAMIC_RATIOS if args.model == "all" else [args.model]:
        runs, macs = runners(name, args)
        for width, height in sizes:
            show(measure(name, runs, macs, height, width, args), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
