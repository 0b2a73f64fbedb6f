"""Enlarge pictures with an exported network, which needs no checkpoint beside it: `python -m quant.upscale --help`."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from data.images import MAX_PIXELS, image_files, named_path
from data.pictures import Picture, read_picture
from model.tiles import MARGINS_A_TILE
from quant.deploy.onnx_backend import SESSIONS, OnnxNetwork
from utility import MAKER, UserError, add_force, check_file, check_output, run_main

log = logging.getLogger(__name__)

TILE, SMALLEST_TILE = 512, 64
GATED_TILE = 1024  # tiles of a network with gates are passed over several times: larger ones save time


def main(argv: Sequence[str] | None = None) -> int:
    """Enlarge every image of --input into --output; returns 1 where some could not be. Raises UserError."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parse(argv)
    folder = os.path.isdir(options.input)  # unlike Path.is_dir it raises nothing
    if not folder:
        check_file(options.input, "--input")
    files = image_files(options.input, "--input") if folder else [options.input]
    if not files:
        raise UserError(f"--input {options.input}: no images in it")
    if os.path.exists(options.output) and not os.path.isdir(options.output):
        raise UserError(f"--output {options.output}: is no folder; give another name")
    stems: dict[str, Path] = {}
    for path in files:
        if (other := stems.setdefault(path.stem, path)) is not path:
            raise UserError(f"--input {options.input}: {other.name} and {path.name} would share a result; rename one")
    network = OnnxNetwork(options.onnx, threads=options.threads, runtime=options.backend)
    if options.tile and options.tile < exact_tile(network):
        log.warning("warning: --tile %d: margins of tiles below %d are narrower than what the network sees around a "
                    "pixel; results are near those of the whole picture, not equal", options.tile, exact_tile(network))
    targets = {path: options.output / f"{path.stem}_x{network.scale}.png" for path in files}
    for target in targets.values():
        check_output(target, flag="--output", mark=MAKER.encode(), inputs=[*files, options.onnx], force=options.force)
    problems = 0
    with tqdm(disable=None, unit=" tiles") as bar:
        for path, target in targets.items():
            bar.set_description(path.name)
            try:
                result = enlarge(network, read_picture(path, max_pixels=options.max_pixels), tile=options.tile,
                                 progress=bar.update)
                result.write(target, maker=MAKER)
            except UserError as error:
                if files == [options.input]:
                    raise
                problems += 1
                tqdm.write(f"error: {error}", file=sys.stderr)
    print(f"{len(targets) - problems} image(s) in {options.output}" + (f", {problems} left out" if problems else ""))
    return 1 if problems else 0


def _parse(argv):
    parser = argparse.ArgumentParser(
        description="Enlarge pictures with an exported network. Transparency and colour profile are kept.")
    parser.add_argument("--onnx", required=True, type=named_path, help="file that quant.export made")
    parser.add_argument("--input", required=True, type=named_path, help="image, or folder of images")
    parser.add_argument("--output", required=True, type=named_path, help="folder for the results, NAME_xSCALE.png")
    parser.add_argument("--tile", type=int,
                        help="larger images are done in tiles of so many pixels a side, which saves memory (default: "
                             f"{TILE}, {GATED_TILE} with gates, more where the network sees farther; 0: never)")
    parser.add_argument("--backend", default="onnx", choices=tuple(SESSIONS),
                        help="onnx: ONNX Runtime (default); openvino: OpenVINO, for files of --format qdq")
    parser.add_argument("--threads", type=int, default=0, help="threads (default: one a core)")
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS,
                        help="images of more pixels are refused (default: %(default)s)")
    add_force(parser)
    options = parser.parse_args(argv)
    if options.tile is not None and (0 < options.tile <= SMALLEST_TILE or options.tile < 0):
        raise UserError(f"--tile {options.tile}: give 0 or more than {SMALLEST_TILE}")
    if not 0 <= options.threads <= 1024:
        raise UserError(f"--threads {options.threads}: give 0 to 1024")
    if options.max_pixels < 1:
        raise UserError(f"--max_pixels {options.max_pixels}: give 1 or more")
    return options


def exact_tile(network: OnnxNetwork) -> int:
    """The LR pixels a side from which on a tile's margins hold all that the network sees around a pixel."""
    return MARGINS_A_TILE * network.reach


def enlarge(network: OnnxNetwork, picture: Picture, *, tile: int | None = None,
            progress: Callable[[], object] = lambda: None) -> Picture:
    """The picture, `network.scale` times as high and wide, by an OnnxNetwork.

    tile: longer or wider pictures pass in tiles of so many LR pixels, 0: never. Tiles bound the memory to that of a
    tile and of the result, which is the whole picture's, gates included, from `exact_tile` on. progress: called after
    each tile.
    """
    if tile is None:
        usual = GATED_TILE if max(picture.colours.shape) > TILE and network.gated else TILE
        tile = max(usual, exact_tile(network))

    def in_8_bits(sr):
        sr = sr * (255 / network.rgb_range)
        # luma is rounded once, as colour or grey
        return sr if network.n_colors == 1 else sr.round().clamp(0, 255).byte()

    lr = picture.values(rgb_range=network.rgb_range, n_colors=network.n_colors)
    sr = network.in_tiles(lr, size=tile or max(lr.shape), finish=in_8_bits, progress=progress)
    return picture.enlarged(sr[0], scale=network.scale)


if __name__ == "__main__":
    sys.exit(run_main(main, lighter="give a smaller --tile"))
