"""Compare an exported file with the network that it was made of, layer by layer: `python -m quant.verify --help`."""

import statistics
import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from data.images import named_path, read_folder
from model.common import SuperResolver
from model.saved import file_hash
from model.settings import contradictions
from quant.activation import quantizers
from quant.deploy.lowering.fold import decibels, in_8_bits, set_bounds
from quant.deploy.network import given_flags, network_parser
from quant.deploy.onnx_backend import SESSIONS, OnnxNetwork
from quant.deploy.onnx_file import of_one_image, read_model
from quant.export import middle
from quant.functional import raised_upper
from quant.open import open_network
from quant.swap import is_quantized
from utility import UserError, run_main

SIDE = 96
TIES = 0.01  # more of the first layer that differs are not the ties of --rest fp32
LUMA_GAIN = 4.8  # dB by which luma's PSNR is above that of R, G and B where their errors are independent
SAME_BOUNDS = 1e-3  # a bound is rounded to 1/4096 of itself in --rest int8


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; 1 where the file breaks its promise or an image was left out, else 0. Raises UserError."""
    args = _parse(argv)
    exported = OnnxNetwork(args.file, runtime=args.backend)
    network = open_network(args.against, flag="--against", **given_flags(args))
    if different := contradictions(network.source.flags, exported.flags, args.against):
        raise UserError(f"--against {args.against}: is of {different} by {args.file}; give the network that it was "
                        "made of")
    metadata = exported.metadata
    if not (metadata.least_db and (metadata.levels or not is_quantized(network))):
        raise UserError(f"{args.file}: does not say where its quantizers' levels are; export it again")
    if unknown := {*metadata.folded, *metadata.levels} - quantizers(network).keys():
        raise UserError(f"{args.file}: speaks of {min(unknown)}, which --against does not have; export it again")
    set_bounds(network, metadata.folded)
    layers = Layers(exported)
    rows, shares, agreement, off = {}, [], [], 0
    images, left_out = _images(args.images, exported)
    for lr in images:
        differences, expected, found = layers.compare(network, lr)
        for name, difference in differences.items():
            rows.setdefault(name, []).append(difference)
        agreement.append(min(decibels(exported, found, expected),
                             decibels(exported, found, expected, luma=False) + LUMA_GAIN))
        errors = (in_8_bits(expected, exported.rgb_range) - in_8_bits(found, exported.rgb_range)).abs()
        shares.append(1 - errors.count_nonzero().item() / errors.numel())
        off = max(off, int(errors.max()))
    kept = _tell(metadata, rows, off, file_hash(network.source.path))
    least = min(agreement)
    which = f" (image {agreement.index(least) + 1} of {len(images)})" if len(images) > 1 else ""
    print(f"{statistics.fmean(shares):.2%} of the 8-bit values are equal, {least:.2f} dB at the least{which}; "
          f"{args.file.name} promises {metadata.least_db} dB")
    kept = kept and least >= metadata.least_db
    return int(left_out > 0 or not kept)


def _parse(argv):
    parser = network_parser("Compare an exported file with the network that it was made of: the levels of every "
                            "quantizer, then the images.")
    parser.add_argument("file", type=named_path, help="file that quant.export made")
    parser.add_argument("--against", required=True, type=named_path, help="the network: a run's folder or a file")
    parser.add_argument("--images", type=named_path, help=f"folder of LR images, cut to {SIDE} pixels (default: waves)")
    parser.add_argument("--backend", default="onnx", choices=tuple(SESSIONS), help="runtime (default: %(default)s)")
    return parser.parse_args(argv)


def _images(folder, exported):
    """LR images [1, n_colors, h, w], the middle of those in the folder, or two made of waves; and how many broke."""
    if folder is not None:
        return read_folder(folder, "--images", lambda pixels: middle(pixels, exported, SIDE))
    rows, columns = np.mgrid[:SIDE // 2, :SIDE // 2]
    waves = [127 + 120 * np.sin(rows * a / 9 + columns * b / 7) for a, b in ((1, 2), (2, -1), (3, 1))]
    images = [np.rint(np.stack(order, 2)).astype(np.uint8) for order in (waves, waves[::-1])]
    return [middle(image, exported, SIDE) for image in images], 0


class Layers:
    """The levels of all quantizers in an exported file, beside those of PyTorch."""

    def __init__(self, exported: OnnxNetwork) -> None:
        self.path, self.levels = exported.path, exported.metadata.levels
        graph = of_one_image(read_model(exported.content, exported.path))
        wanted = dict.fromkeys(name for entry in self.levels.values() for name in entry if isinstance(name, str))
        known = {output.name for output in graph.graph.output}
        for name in [name for name in wanted if name not in known]:
            graph.graph.output.add(name=name)
        (self._input,), self._sr = graph.graph.input, graph.graph.output[0].name
        self._names = list(wanted)
        self._session = exported.open_session(graph.SerializeToString())

    def compare(self, network: SuperResolver, lr: torch.Tensor) \
            -> tuple[dict[str, tuple[int, float, float]], torch.Tensor, torch.Tensor]:
        """({quantizer: (largest difference in levels, share of values that differ, ratio of steps)} in their order,
        sr of PyTorch, sr of the file's graph for one image) of one image.

        The ratio, of the file's step to PyTorch's, is 1 where no gate computes it at run time.
        """
        feeds = lr[0] if len(self._input.type.tensor_type.shape.dim) == 3 else lr
        sr, *tensors = self._session.run([self._sr, *self._names], {self._input.name: feeds.numpy()})
        found = dict(zip(self._names, tensors, strict=True))
        outputs, expected = _outputs(network, lr)
        differences = {name: self._difference(found, name, *outputs[name]) for name in outputs if name in self.levels}
        return differences, expected, torch.from_numpy(sr).view(expected.shape)

    def _difference(self, found, name, expected, scale):
        tensor, step, zero, *own_scale = self.levels[name]
        values = found[tensor].astype(np.float64)
        if values.size != expected.size:
            raise UserError(f"{self.path}: its {tensor} does not hold the levels of {name}; export it again")
        ratio = 1.0
        if step is not None:
            number = found[step].item() if isinstance(step, str) else step
            values = (values - zero) * number
            ratio = number * scale if isinstance(step, str) else 1.0
        elif own_scale:
            ratio = scale / found[own_scale[0]].item()
        differences = np.abs(np.rint(values.reshape(expected.shape) * scale) - np.rint(expected * scale))
        return int(differences.max()), float((differences > 0).mean()), ratio


@torch.no_grad()
def _outputs(network, lr):
    """({quantizer: (its output, levels a unit)}, float64 NumPy, in the network's order; sr) for one image."""
    found = {}

    def record(name, quantizer, parts, output):
        lower, upper = quantizer.bounds(*parts)
        width = (raised_upper(lower, upper) - lower).double().item()
        found[name] = output.double().numpy(), (2**quantizer.k_bits - 1) / width

    handles = [quantizer.register_forward_hook(partial(record, name))
               for name, quantizer in quantizers(network).items()]
    sr = network(lr)
    for handle in handles:
        handle.remove()
    return found, sr


def _tell(metadata, rows, off, sha256):
    """Print what was found of the levels; returns whether the file can have been made of the network.

    off: the largest difference of the images' 8-bit values. sha256: of the network's file.
    """
    source = metadata.source or {}
    same_file = source.get("sha256") in (None, sha256)
    culprit = "the runtime computes the file wrongly" if source.get("sha256") == sha256 else \
        "the file was made of another network"
    largest, differing, moved = {}, {}, set()
    for name, differences in rows.items():
        most, shares, ratios = zip(*differences, strict=True)
        largest[name], differing[name] = max(most), statistics.fmean(shares)
        bounds = max(ratios, key=lambda ratio: abs(ratio - 1)) - 1
        gate = ""
        if abs(bounds) > SAME_BOUNDS:
            moved.add(name)
            gate = f"; its gate's bounds by {bounds:+.1%} at most"
        print(f"{name:24} {largest[name]:3} level(s) at most, {differing[name]:8.4%} of its values differ{gate}")
    first = next((name for name, most in largest.items() if most), None)
    # a gate decides ties, too, and moves many values by one
    another = metadata.rest == "fp32" and (off > 1 if first is None else differing[first] > TIES and not (
        first in moved and same_file))
    if not rows:
        print("full precision: there are no levels to compare" + (
            f"; the images differ by {off} of 255: {culprit}" if another else ""))
    elif first is None:
        print(f"all {len(rows)} quantizers have PyTorch's levels" + (
            f", and the images differ by {off} of 255: {culprit}" if another else ""))
    else:
        print(f"first layer that differs: {first}, by {largest[first]} level(s) in {differing[first]:.4%} of its "
              "values")
        print(f"--rest fp32: so many are no rounding ties; {culprit}" if another else
              "--rest int8: features between the quantizers are 8-bit here and float in PyTorch" if
              metadata.rest == "int8" else
              "--rest fp32: float sums in another order decide rounding ties, and later layers carry that on")
    if not same_file:
        print(f"note: it was made of {source.get('file')}, and --against is another file")
    return not another


if __name__ == "__main__":
    sys.exit(run_main(main))
