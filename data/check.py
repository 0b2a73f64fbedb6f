"""Tell what a data root holds, what is missing and what does not fit together, in one table.

python -m data.check --dir_data datasets

Reads names and sizes only; that the pixels are right is checked by running `python -m data.prepare` again.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

from data.images import image_shape
from data.layout import LAYOUTS, images_in, scale_folders
from utility import UserError, run_main, summary

BENCHMARKS = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100}
DIV2K_COUNTS = (800, 900)
HEADINGS = ("data set", "part", "images", "state")
SHOWN = 3


@dataclass
class Row:
    """One line of the table: the HR images of a data set, or its LR images of one scale."""

    data_set: str
    part: str = "-"
    images: int | None = None
    problems: list = field(default_factory=list)
    note: str = "ok"

    def cells(self):
        images = "-" if self.images is None else str(self.images)
        return self.data_set, self.part, images, "; ".join(self.problems) or self.note


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m data.check", description=summary(__doc__))
    parser.add_argument("--dir_data", type=Path, required=True, help="root of the data sets, such as datasets")
    dir_data = parser.parse_args(argv).dir_data
    rows = check(dir_data)
    print(format_table(rows))
    count = sum(len(row.problems) for row in rows)
    print(f"\n{dir_data}: {count or 'no'} problem{'' if count == 1 else 's'}")
    return 1 if count else 0


def check(dir_data):
    """The rows of the table for a data root. A published set that is not there gets a row, but is no problem.

    Raises UserError where there is no data set at all.
    """
    dir_data = Path(dir_data)
    rows = []
    for root in _folders(dir_data):
        if any((root / part).is_dir() for part in (LAYOUTS["div2k"].hr, LAYOUTS["div2k"].lr)):
            rows += check_set(root, LAYOUTS["div2k"])
    for root in _folders(dir_data / "benchmark"):
        rows += check_set(root, LAYOUTS["benchmark"])
    if not rows:
        raise UserError(f"--dir_data {dir_data}: no DIV2K and no benchmark set in it; see datasets/README.md")
    here = {row.data_set for row in rows}
    return rows + [Row(name, note="not here") for name in ("DIV2K", *BENCHMARKS) if name not in here]


def check_set(root, layout):
    """The rows of one data set, HR first, then each scale; DIV2K's JPEG inputs count as sets of their own."""
    hr_shapes, problems = _shapes(layout.hr_folder(root), suffix="")
    rows = [Row(root.name, "HR", len(hr_shapes), problems)]
    if not hr_shapes:
        problems.append("no HR images")
    elif len(hr_shapes) != BENCHMARKS.get(root.name, len(hr_shapes)):
        problems.append(f"{root.name} has {BENCHMARKS[root.name]} images")
    elif root.name == "DIV2K" and len(hr_shapes) not in DIV2K_COUNTS:
        rows[0].note = "ok, but DIV2K itself has 800 images to train with, and 100 more"

    for kind in (layout.lr, *sorted(folder.name for folder in root.glob("DIV2K_Q*"))):
        name = root.name if kind == layout.lr else kind.replace("_", "-", 1)
        rows += [check_scale(name, folder, scale, hr_shapes) for scale, folder in scale_folders(root / kind).items()]
    if len(rows) == 1:
        rows.append(Row(root.name, "LR", 0, ["no LR images: make them with python -m data.prepare"]))
    return rows


def check_scale(data_set, folder, scale, hr_shapes):
    """The row of one LR folder. hr_shapes: dict name -> (height, width) of the HR images."""
    lr_shapes, problems = _shapes(folder, suffix=f"x{scale}")
    for what, names in (
        ("no LR image for", hr_shapes.keys() - lr_shapes.keys()),
        ("no HR image for", lr_shapes.keys() - hr_shapes.keys()),
    ):
        if names:
            problems.append(f"{what} {_some(sorted(names))}")
    wrong = [
        f"{name} ({_size(lr_shapes[name])}, HR {_size(hr_shapes[name])})"
        for name in sorted(lr_shapes.keys() & hr_shapes.keys())
        if lr_shapes[name] != tuple(length // scale for length in hr_shapes[name])
    ]
    if wrong:
        problems.append(f"wrong size: {_some(wrong)}")
    return Row(data_set, f"X{scale}", len(lr_shapes), problems)


def format_table(rows):
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _shapes(folder, suffix):
    """dict name -> (height, width) of a folder's images, names without `suffix`; and the problems met on the way."""
    shapes, unreadable, misnamed = {}, [], []
    for path in images_in(folder):
        if not path.stem.endswith(suffix):
            misnamed.append(path.name)
            continue
        try:
            shapes[path.stem.removesuffix(suffix)] = image_shape(path)
        except UserError:
            unreadable.append(path.name)
    problems = [f"unreadable: {_some(unreadable)}"] if unreadable else []
    return shapes, problems + ([f"name does not end in {suffix}: {_some(misnamed)}"] if misnamed else [])


def _some(items):
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _size(shape):
    height, width = shape
    return f"{width}x{height}"


def _folders(parent):
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


if __name__ == "__main__":
    sys.exit(run_main(main))
