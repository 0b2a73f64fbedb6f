"""A small real data set from the photographs that scikit-image ships: `python -m data.demo_set --out datasets/demo`.

DIV2K layout for training and benchmark layout `DemoSet` for testing, from different photographs; nothing is downloaded.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import skimage

from data import prepare
from data.images import read_image, write_png
from utility import UserError, run_main

TRAIN = ("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg",
         "brick.png", "grass.png", "gravel.png", "camera.png")
TEST = ("astronaut.png", "chelsea.png", "coffee.png")
TILE = 400


def main(argv=None):
    """Make the set in --out, or verify what is there. Raises UserError for photographs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="datasets/demo", help="data root to make (default: %(default)s)")
    parser.add_argument("--scales", type=int, nargs="+", default=[4], help="magnifications (default: 4)")
    options = parser.parse_args(argv)
    return make(Path(options.out), scales=options.scales)


def make(root, *, scales):
    """Write <root>/DIV2K and <root>/benchmark/DemoSet for the scales. Returns the exit code of `data.prepare`."""
    with tempfile.TemporaryDirectory() as folder:
        train, test = Path(folder, "train"), Path(folder, "test")
        for name in TRAIN:
            _write_tiles(name, train)
        for name in TEST:
            write_png(test / f"{Path(name).stem}.png", _photograph(name))
        flags = ["--scales", *map(str, scales)]
        code = prepare.main(["--hr", str(train), "--out", str(root / "DIV2K"), "--layout", "div2k", *flags])
        return code or prepare.main(["--hr", str(test), "--out", str(root / "benchmark" / "DemoSet"),
                                     "--layout", "benchmark", *flags])


def _photograph(name):
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise UserError(f"{path}: missing from this scikit-image; install a release that ships its photographs")
    return read_image(path)


def _write_tiles(name, folder):
    image = _photograph(name)
    height, width = image.shape[:2]
    rows, columns = max(1, height // TILE), max(1, width // TILE)
    for row in range(rows):
        for column in range(columns):
            tile = image[row * height // rows : (row + 1) * height // rows,
                         column * width // columns : (column + 1) * width // columns]
            write_png(folder / f"{Path(name).stem}_{row}{column}.png", tile)


if __name__ == "__main__":
    sys.exit(run_main(main))
