"""What a network costs: parameters, storage, multiplications and bit operations. `python -m quant.cost --help`.

MACs: a convolution's weights times the pixels of its output, one multiplication with its addition each; biases, norms,
activations, sums and the rounding of quantizers are not counted, as in the literature.

BOPs, bit operations: the literature has two counts that do not agree.
- `product`: MACs * b_w * b_a, bits of the weight times bits of the feature (32 where not quantized): the number of
  multiplications times the bits of both operands, as papers on quantized super-resolution, DDTB's among them, define
  it. This is what is printed. Some of them count the addition too, which doubles every number; ratios stay the same.
- `accumulated` (UNIQ): MACs * (b_w * b_a + b_w + b_a + log2(I*k*k)), which adds the additions at the width of the
  accumulator for I input channels and a k x k kernel. `--formula accumulated` prints it.

As papers count them, every quantized convolution has k-bit features. In truth EDSR's first convolution of a block and
RDN's last one of the global fusion read features that are not quantized; `as run` counts those at 32 bits.
"""

import copy
import json
import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import model
from data.images import named_path
from model.common import MeanShift, SuperResolver, convolutions
from model.registry import settings_of
from model.settings import contradictions
from quant.activation import gates_in_use, quantizers, with_gates
from quant.config import QuantConfig, quant_flags
from quant.deploy.network import given_flags, network_parser
from quant.methods.ddtb import GATE_BITS
from quant.open import open_network
from quant.schedule import DYNAMIC_RATIO
from quant.swap import is_quantized, quantize
from quant.weight import QuantConv2d
from utility import FULL_PRECISION, UserError, run_main, whole_number

log = logging.getLogger(__name__)

OUTPUT = (1280, 720)
FORMULAS = ("product", "accumulated")
IMAGE_SIDE = 32
# form: what `quant.export.export` makes of it; gates as the network has them
EXPORTED: dict[str, dict[str, Any]] = {
    "qlinear, rest fp32": {}, "qlinear, rest int8": {"rest": "int8"},
    "qlinear, rest int8, plain weights": {"rest": "int8", "weights": "plain"},
    "qdq, rest fp32": {"format": "qdq"}, "qdq, rest int8": {"rest": "int8", "format": "qdq"},
    "qdq, rest int8, packed weights": {"rest": "int8", "format": "qdq", "weights": "packed"},
}


@dataclass(frozen=True)
class ConvCost:
    """One convolution: MACs per output pixel of the network, products in one sum, number of weights, bits.

    bits: of its weight and feature, as papers count. bits_run: of the feature that it reads.
    """

    name: str
    macs: float
    fan_in: int
    weights: int
    bits: int
    bits_run: int

    def bops(self, formula: str, *, as_run: bool = False) -> float:
        """Bit operations per output pixel. Raises ValueError for a formula that is none of FORMULAS."""
        if formula not in FORMULAS:
            raise ValueError(f"formula {formula!r}: choose {' or '.join(FORMULAS)}")
        feature_bits = self.bits_run if as_run else self.bits
        product = self.bits * feature_bits
        if formula == "product":
            return self.macs * product
        return self.macs * (product + self.bits + feature_bits + math.log2(self.fan_in))


def conv_costs(network: SuperResolver) -> list[ConvCost]:
    """The ConvCost of every convolution that runs on features, in the network's order; gates and mean shifts apart."""
    network = copy.deepcopy(network).eval()  # the caller's stays in its mode, and sees no image
    for quantizer in quantizers(network).values():
        quantizer.mark_bounds_set()  # costs are the same with any
    reading_floats = {block.get_submodule(name) for block in network.modules()
                      for name in getattr(block, "FLOAT_INPUT", ())}
    costs = []

    def record(module, _, output):
        bits = module.k_bits if isinstance(module, QuantConv2d) else FULL_PRECISION
        share = output.shape[2] * output.shape[3] / (side * network.scale) ** 2
        weight = module.weight
        costs.append(ConvCost(names[module], weight.numel() * share, weight[0].numel(), weight.numel(), bits,
                              FULL_PRECISION if module in reading_floats else bits))

    side = 16
    names = {module: name for name, module in network.named_modules()}
    convs = [conv for conv in convolutions(network) if not isinstance(conv, MeanShift)]
    for conv in convs:
        conv.register_forward_hook(record)
    with torch.no_grad():
        network(torch.zeros(1, network.n_colors, side, side))
    return costs


def gate_costs(network: nn.Module) -> dict[str, int]:
    """What the applied gates add: their number, parameters, bits to store, MACs an image and additions an LR pixel."""
    live = [quantizer.gate for quantizer in gates_in_use(network).values()]
    weights = sum(gate.reduce.weight.numel() + gate.expand.weight.numel() for gate in live)
    norms = sum(4 * gate.norm.num_features for gate in live)
    return {"gates": len(live), "parameters": weights + norms, "bits": weights * GATE_BITS + norms * FULL_PRECISION,
            "macs_per_image": weights, "additions_per_lr_pixel": sum(gate.reduce.in_channels for gate in live)}


def summary(network: SuperResolver, *, formula: str = "product", output: tuple[int, int] = OUTPUT) -> dict[str, Any]:
    """Costs of a network, full-precision or quantized, as a dict of numbers; the gates' under `gates`."""
    costs = conv_costs(network)
    parameters = sum(parameter.numel() for name, parameter in network.named_parameters() if ".gate." not in name)
    bits = parameters * FULL_PRECISION - sum(cost.weights * (FULL_PRECISION - cost.bits) for cost in costs)
    pixels = output[0] * output[1]
    per_pixel = {"macs": sum(cost.macs for cost in costs), "bops": sum(cost.bops(formula) for cost in costs),
                 "bops_as_run": sum(cost.bops(formula, as_run=True) for cost in costs)}
    return {"parameters": parameters, "storage_bytes": bits / 8, "per_output_pixel": per_pixel,
            "per_output": {name: value * pixels for name, value in per_pixel.items()}, "gates": gate_costs(network)}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the costs of a quantized network beside those of the full-precision one. Raises UserError."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = _parse(argv)
    network = _new(given_flags(options), options.dynamic_ratio) if options.refine is None else \
        open_network(options.refine, flag="--refine", **given_flags(options))
    name, scale = model.name_of(network), network.scale
    costs = {"full precision": model.NETWORKS[name](**network.settings)}
    if is_quantized(network):
        costs[f"{network.quant_config.k_bits} bit"] = network
    found = {label: summary(one, formula=options.formula, output=options.output) for label, one in costs.items()}
    files = {} if options.refine is None or not is_quantized(network) else _files(network)
    if options.json:
        print(json.dumps({"model": name, "scale": scale, "formula": options.formula,
                          "output": options.output, "costs": found, "files": files}))
        return 0
    print(f"{name} x{scale}, output {options.output[0]}x{options.output[1]}, BOPs by the formula "
          f"'{options.formula}'\n{_table(found)}")
    for form, size in files.items():
        print(f"file, {form:42}{size / 1e6:9.3f} MB")
    return 0


def _files(network):
    """{form: bytes} of its files, those that can be made of it. Noise calibrates them: images move int8's by 2 %."""
    noise = torch.rand(1, network.n_colors, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0))
    images = [noise * network.rgb_range]
    try:
        from quant.deploy.packed import write_packed  # these need the packages of deployment
        from quant.export import export
    except (ImportError, SystemExit) as error:  # quant.deploy.lowering ends a program that lacks onnx
        log.warning("sizes of its files: %s", error)
        return {}
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "x.safetensors"
        for form, settings in {"packed": None, **EXPORTED}.items():
            try:
                if settings is None:
                    sizes[form] = write_packed(network, packed, source=network.source.path)
                else:
                    sizes[f"ONNX, {form}"] = export(network, images=images, **settings).ByteSize()
            except UserError as error:
                log.warning("size of %s: %s", form, error)
    return sizes


def _new(given, dynamic_ratio):
    """The network that flags describe; where quantized, that share of its quantizers, the first ones, have gates."""
    missing = [f"--{name}" for name in ("model", "scale") if name not in given]
    if missing:
        raise UserError(f"{' and '.join(missing)}: needed to build a network; give them, or a file with --refine")
    network = model.NETWORKS[given["model"]](
        **{name: given[name] for name in settings_of(given["model"]) if name in given})
    quant = {name: given[name] for name in quant_flags() if name in given}
    if given.get("k_bits", FULL_PRECISION) == FULL_PRECISION:
        if idle := [f"--{name}" for name in quant if name != "k_bits"]:
            raise UserError(f"{idle[0]}: is for quantized networks; add --k_bits, 2 to 8, or leave it out")
        _tell_idle(network, {}, given)
        return network
    config = QuantConfig(**quant)
    quantize(network, config)
    _tell_idle(network, config.to_dict(), given)
    members = list(with_gates(network).values())
    for quantizer in members[: int(dynamic_ratio * len(members))]:
        quantizer.set_dynamic(True)
    return network


def _tell_idle(network, quant, given):
    """The log tells of the flags that this network has no use for."""
    contradictions({"model": given["model"], "k_bits": FULL_PRECISION, **network.settings, **quant}, given,
                   f"--model {given['model']}")


def _parse(argv):
    parser = network_parser("Parameters, storage, MACs and bit operations of a network.")
    parser.add_argument("--dynamic_ratio", type=float, help="share of quantizers with a gate, of a network without "
                        f"--refine (default: {DYNAMIC_RATIO})")
    parser.add_argument("--refine", type=named_path, help="a run's folder or a file: the sizes of all forms of file, "
                        "quantized, are printed too; without it gates are counted by --dynamic_ratio")
    parser.add_argument("--formula", default="product", choices=FORMULAS, help="how bit operations are counted")
    parser.add_argument("--output", type=_size, default=OUTPUT, help="size of the SR image, as 1280x720 (default)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    if options.dynamic_ratio is None:
        options.dynamic_ratio = DYNAMIC_RATIO
    elif not 0 <= options.dynamic_ratio <= 1:
        raise UserError(f"--dynamic_ratio {options.dynamic_ratio}: give a share, 0 to 1")
    elif options.refine is not None:
        raise UserError(f"--dynamic_ratio {options.dynamic_ratio}: --refine says which gates it has; give one of them")
    return options


def _size(text):
    size = tuple(map(whole_number, text.split("x")))
    if len(size) != 2 or not all(size):
        raise UserError(f"--output {text}: give width and height in pixels, as 1280x720")
    return size


def _table(found):
    rows = [("", *found),
            ("parameters", *(f"{cost['parameters']:,}" for cost in found.values())),
            ("storage", *(f"{cost['storage_bytes'] / 1e6:.3f} MB" for cost in found.values())),
            ("MACs per output pixel", *(f"{cost['per_output_pixel']['macs'] / 1e3:.2f} k" for cost in found.values())),
            ("MACs", *(f"{cost['per_output']['macs'] / 1e9:.1f} G" for cost in found.values())),
            ("BOPs per output pixel", *(f"{cost['per_output_pixel']['bops'] / 1e6:.2f} M" for cost in found.values())),
            ("BOPs", *(f"{cost['per_output']['bops'] / 1e12:.2f} T" for cost in found.values())),
            ("BOPs as run", *(f"{cost['per_output']['bops_as_run'] / 1e12:.2f} T" for cost in found.values())),
            ("gates", *(str(cost["gates"]["gates"]) for cost in found.values())),
            ("  parameters", *(f"{cost['gates']['parameters']:,}" for cost in found.values())),
            ("  storage", *(f"{cost['gates']['bits'] / 8e6:.3f} MB" for cost in found.values())),
            ("  MACs per image", *(f"{cost['gates']['macs_per_image'] / 1e3:.1f} k" for cost in found.values()))]
    return "\n".join(f"{row[0]:24}" + "".join(f"{cell:>18}" for cell in row[1:]) for row in rows)


if __name__ == "__main__":
    sys.exit(run_main(main))
