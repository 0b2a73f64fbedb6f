"""Enlarge pictures with an exported network: `python -m quant.upscale --help`.

Needs no PyTorch checkpoint; the file itself says what it is.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

from data.images import image_files, read_image, write_png
from data.patches import to_planes, to_values
from quant.deploy.onnx_backend import SESSIONS, OnnxNetwork
from utility import UserError, run_main

TILE = 512
OVERLAP = 32


def main(argv=None):
    """Enlarge every image of --input into --output. Raises UserError for a user's mistake."""
    options = _parse(argv)
    files = image_files(options.input) if options.input.is_dir() else [options.input]
    if not files:
        raise UserError(f"--input {options.input}: no images in it")
    network = OnnxNetwork(options.onnx, threads=options.threads, runtime=options.backend)
    targets = {path: options.output / f"{path.stem}_x{network.scale}.png" for path in files}
    if len(set(targets.values())) < len(targets):
        raise UserError(f"--input {options.input}: two images differ in their suffix alone; rename one")
    with tqdm(disable=None, unit="tile") as bar:
        for path, target in targets.items():
            bar.set_description(path.name)
            write_png(target, upscale(network, read_image(path), tile=options.tile, bar=bar))
    print(f"{len(targets)} image(s) in {options.output}")
    return 0


def _parse(argv):
    parser = argparse.ArgumentParser(description="Enlarge pictures with an exported network.")
    parser.add_argument("--onnx", required=True, help="file that quant.export made")
    parser.add_argument("--input", required=True, type=Path, help="image, or folder of images")
    parser.add_argument("--output", required=True, type=Path, help="folder for the results, NAME_xSCALE.png")
    parser.add_argument("--tile", type=int, default=TILE,
                        help="larger images are done in tiles of so many pixels a side, which saves memory "
                             "(default: %(default)s, 0: never)")
    parser.add_argument("--backend", default="onnx", choices=tuple(SESSIONS),
                        help="onnx: ONNX Runtime (default); openvino: OpenVINO, for files of --format qdq")
    parser.add_argument("--threads", type=int, default=0, help="threads (default: one a core)")
    options = parser.parse_args(argv)
    if 0 < options.tile <= 2 * OVERLAP or options.tile < 0:
        raise UserError(f"--tile {options.tile}: give 0 or more than {2 * OVERLAP}, tiles overlap by {OVERLAP} pixels")
    if options.threads < 0:
        raise UserError(f"--threads {options.threads}: give 0 or more")
    if not options.input.exists():
        raise UserError(f"--input {options.input}: no such file or folder")
    return options


def upscale(network, image, *, tile=TILE, bar=None):
    """image: uint8 [h, w, 3] to uint8 [scale*h, scale*w, 3], by an OnnxNetwork. bar: told of every tile.

    Tiles overlap by OVERLAP pixels a side, of which nothing is kept. A network with one colour gets the luma, and the
    result is grey. Memory is that of one tile, and the result.
    """
    height, width, _ = image.shape
    scale, channels = network.scale, network.settings["n_colors"]
    sr = torch.empty((channels, scale * height, scale * width), dtype=torch.uint8)
    lr = to_values(to_planes(image), rgb_range=network.rgb_range, n_colors=channels)[None]
    places = list(product(cuts(height, tile), cuts(width, tile)))
    if bar is not None:
        bar.reset(total=len(places))
    for (top, bottom, first, last), (left, right, begin, end) in places:
        piece = network(lr[:, :, first:last, begin:end])[0]
        piece = (piece * (255 / network.rgb_range)).round().clamp(0, 255)
        sr[:, scale * top : scale * bottom, scale * left : scale * right] = piece[
            :, scale * (top - first) : scale * (bottom - first), scale * (left - begin) : scale * (right - begin)]
        if bar is not None:
            bar.update()
    return sr.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def cuts(length, tile):
    """[(start, stop, first, last)]: start..stop, side by side, are kept of first..last, at most `tile` pixels.

    All are as equal as can be; tile 0: one for everything.
    """
    if tile == 0 or length <= tile:
        return [(0, length, 0, length)]
    count = -(-length // (tile - 2 * OVERLAP))
    edges = [length * i // count for i in range(count + 1)]
    return [(start, stop, max(start - OVERLAP, 0), min(stop + OVERLAP, length))
            for start, stop in zip(edges[:-1], edges[1:], strict=True)]


if __name__ == "__main__":
    sys.exit(run_main(main))
