"""A small real data set from the photographs that scikit-image ships: `python -m data.demo_set --out datasets/demo`.

DIV2K layout for training and benchmark layout `DemoSet` for testing, from different photographs; nothing is downloaded.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import skimage

from data import prepare
from data.images import read_image, write_png
from utility import UserError, first_line, run_main

TRAIN = ("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg",
         "brick.png", "grass.png", "gravel.png", "camera.png", "coins.png")
TEST = ("astronaut.png", "chelsea.png", "coffee.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Make the set in --out, or verify what is there. Returns the exit code of `data.prepare`."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--out", type=Path, default=Path("datasets/demo"), help="data root (default: %(default)s)")
    parser.add_argument("--scales", type=int, nargs="+", default=[4], help="magnifications (default: 4)")
    options = parser.parse_args(argv)
    return make(options.out / "DIV2K", TRAIN, layout="div2k", scales=options.scales) or make(
        options.out / "benchmark" / "DemoSet", TEST, layout="benchmark", scales=options.scales)


def make(root: Path, names: Sequence[str], *, layout: str, scales: Sequence[int]) -> int:
    """Make a data set of the named photographs in `root`. Returns the exit code of `data.prepare`.

    layout: one of data.layout's. Raises UserError for a photograph that is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            write_png(Path(folder, name).with_suffix(".png"), read_image(photograph(name)))
        return prepare.main(["--hr", folder, "--out", str(root), "--layout", layout, "--workers", "1",
                             "--scales", *map(str, scales)])


def photograph(name: str) -> Path:
    """The path of one of scikit-image's own files; those that it would fetch from the net don't count."""
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise UserError(f"{path}: missing from this scikit-image; install a release that ships its photographs")
    return path


if __name__ == "__main__":
    sys.exit(run_main(main))
