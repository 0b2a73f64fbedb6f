"""Tell what a data root holds, what is missing and what does not fit together, in one table.

python -m data.check --dir_data datasets
python -m data.check --dir_data datasets --against Set5+Set14    or: --hr photographs --against datasets/benchmark

Reads names and sizes only; that the pixels are right is checked by running `python -m data.prepare` again. With
--against it looks for training pictures that are test pictures too (data/twins.py), and does nothing else.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.image_sets import numbered_layouts, valid_layout
from data.images import image_shape
from data.layout import BENCHMARKS, LAYOUTS, Layout, folders_in, images_in, scale_folders
from data.pair_check import size_text, too_small_to_test
from data.twins import find_twins, pictures_in
from utility import UserError, first_line, run_main

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

    def cells(self) -> tuple[str, ...]:
        images = "-" if self.images is None else str(self.images)
        return self.data_set, self.part, images, "; ".join(self.problems) or self.note


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.check", description=first_line(__doc__))
    parser.add_argument("--dir_data", type=Path, help="root of the data sets, such as datasets")
    parser.add_argument("--against", metavar="SETS", help="look for training pictures that these test pictures show "
                        "too: names of sets joined with +, or a folder")
    parser.add_argument("--hr", type=Path, nargs="+", help="with --against: folders of training pictures (default: all "
                        "sets in --dir_data that are no benchmark)")
    args = parser.parse_args(argv)
    if args.against == "":
        raise UserError("--against '': names of test sets or a folder are needed, not an empty text")
    if args.hr and not args.against:
        parser.error("--hr: goes with --against")
    if not (args.dir_data or args.hr):
        parser.error("--dir_data: give the root of the data sets" + (", or --hr" if args.against else ""))
    return report_twins(args) if args.against else report_check(args.dir_data)


def report_check(dir_data: Path) -> int:
    """Print the table of `check`; returns the exit code."""
    rows = check(dir_data)
    print(format_table([HEADINGS, *(row.cells() for row in rows)]))
    count = sum(len(row.problems) for row in rows)
    print(f"\n{dir_data}: {count or 'no'} problem{'' if count == 1 else 's'}")
    return 1 if count else 0


def report_twins(args: argparse.Namespace) -> int:
    """Print a table of the twins between training and test pictures; returns the exit code, 1 when there are any."""
    folders = args.hr or [folder for folder in folders_in(args.dir_data) if folder.name != "benchmark"]
    flag, value = ("--hr", " ".join(map(str, args.hr))) if args.hr else ("--dir_data", args.dir_data)
    training = _pictures(folders, flag, value)
    testing = _pictures(_test_folders(args.against, args.dir_data), "--against", args.against)
    twins, problems = find_twins(training, testing)
    if twins:
        cells = [(str(twin.training), str(twin.testing), f"{twin.likeness:.2f}") for twin in twins]
        print(format_table([("training picture", "test picture", "likeness"), *cells]) + "\n")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    count = f"{len(twins) or 'no'} twin{'' if len(twins) == 1 else 's'}"
    print(f"{len(training)} training pictures, {len(testing)} test pictures: {count}")
    return 1 if twins or problems else 0


def _pictures(folders, flag, value):
    pictures = list(dict.fromkeys(path for folder in folders for path in pictures_in(folder, flag)))
    if not pictures:
        raise UserError(f"{flag} {value}: no pictures in it; give a folder that holds some")
    return pictures


def _test_folders(against, dir_data):
    roots = [dir_data / "benchmark", dir_data] if dir_data else []
    of_root = os.sep not in against and any(os.path.isdir(root / against) for root in roots)
    if os.path.isdir(against) and not of_root:
        return [Path(against)]
    roots.append(Path())
    folders = []
    for name in against.split("+"):
        there = [root / name for root in roots if name and os.path.isdir(root / name)]
        if not there:
            advice = f"name only sets that {dir_data}/benchmark has" if dir_data else "give --dir_data with names"
            raise UserError(f"--against {against}: there is no folder or test set {name!r}; {advice}")
        folders.append(there[0])
    return folders


def check(dir_data: Path) -> list[Row]:
    """The rows of the table for a data root. A published set that is not there gets a row, but is no problem.

    Raises UserError where there is no data set at all.
    """
    dir_data = Path(dir_data)
    rows = []
    for root in folders_in(dir_data):
        for layout in _training_layouts(root):
            rows += check_set(root, layout)
    for root in folders_in(dir_data / "benchmark"):
        rows += check_set(root, LAYOUTS["benchmark"])
    if not rows:
        raise UserError(f"--dir_data {dir_data}: no DIV2K and no benchmark set in it; see datasets/README.md")
    here = {row.data_set for row in rows}
    return rows + [Row(name, note="not here") for name in ("DIV2K", *BENCHMARKS) if name not in here]


def _training_layouts(root):
    """The layouts in which a folder beside `benchmark` holds images to train with, and DIV2K's last hundred."""
    div2k = LAYOUTS["div2k"]
    if root.name in BENCHMARKS:
        return [LAYOUTS["benchmark"]] if os.path.isdir(LAYOUTS["benchmark"].hr_folder(root)) else []
    there = numbered_layouts(root.parent, root.name)[:1] if root.name != "benchmark" else []
    if os.path.isdir(root / div2k.lr) and div2k.hr not in (layout.hr for layout in there):
        there.append(div2k)  # LR images alone, which training would refuse
    valid = valid_layout(there[0]) if there else None
    return [*there, valid] if valid and os.path.isdir(valid.hr_folder(root)) else there


def check_set(root: Path, layout: Layout) -> list[Row]:
    """The rows of one data set, HR first, then each scale; DIV2K's JPEG inputs count as sets of their own."""
    valid = layout.name == "valid"
    own = f"{root.name}-valid" if valid else root.name
    hr_shapes, problems = _shapes(layout.hr_folder(root), suffix="")
    rows = [Row(own, "HR", len(hr_shapes), problems)]
    if not hr_shapes:
        problems.append("no HR images")
    elif len(hr_shapes) != BENCHMARKS.get(root.name, len(hr_shapes)):
        problems.append(f"{root.name} has {BENCHMARKS[root.name]} images")
    elif own == "DIV2K" and len(hr_shapes) not in DIV2K_COUNTS:
        rows[0].note = "ok, but DIV2K itself has 800 images to train with, and 100 more"

    jpeg = [] if valid else sorted(folder.name for folder in root.glob("DIV2K_Q*"))
    for kind in (layout.lr, *jpeg):
        name = own if kind == layout.lr else kind.replace("_", "-", 1)
        for scale, folder in scale_folders(root / kind).items():
            rows.append(check_scale(name, folder, scale, hr_shapes, tested=layout.name == "benchmark"))
    if len(rows) == 1:
        rows.append(Row(own, "LR", 0, ["no LR images: make them with python -m data.prepare"]))
    return rows


def check_scale(data_set: str, folder: Path, scale: int, hr_shapes: Mapping[str, tuple[int, int]], *,
                tested: bool) -> Row:
    """The row of one LR folder. hr_shapes: dict name -> (height, width) of the HR images. tested: whether all are."""
    lr_shapes, problems = _shapes(folder, suffix=f"x{scale}")
    for lacking, names in (("LR", hr_shapes.keys() - lr_shapes.keys()), ("HR", lr_shapes.keys() - hr_shapes.keys())):
        if names:
            problems.append(f"no {lacking} image for {_some(sorted(names))}")
    wrong = [
        f"{name} ({size_text(lr_shapes[name])}, HR {size_text(hr_shapes[name])})"
        for name in sorted(lr_shapes.keys() & hr_shapes.keys())
        if lr_shapes[name] != tuple(length // scale for length in hr_shapes[name])
    ]
    if wrong:
        problems.append(f"wrong size: {_some(wrong)}")
    small = [name for name, shape in sorted(lr_shapes.items()) if tested and too_small_to_test(shape, scale, scale)]
    if small:
        problems.append(f"too small to test with: {_some(small)}")
    return Row(data_set, f"X{scale}", len(lr_shapes), problems)


def format_table(lines: list[tuple[str, ...]]) -> str:
    """Lines of cells, the headings first, as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _shapes(folder, suffix):
    """dict name -> (height, width) of a folder's images, names without `suffix`; and the problems met on the way."""
    shapes, unreadable, misnamed, twice = {}, [], [], []
    for path in images_in(folder):
        if not path.stem.endswith(suffix):
            misnamed.append(path.name)
            continue
        name = path.stem.removesuffix(suffix)
        if name in shapes:
            twice.append(name)
        try:
            shapes[name] = image_shape(path)
        except UserError:
            unreadable.append(path.name)
    kinds = {"unreadable": unreadable, f"name does not end in {suffix}": misnamed, "several images called": twice}
    return shapes, [f"{kind}: {_some(found)}" for kind, found in kinds.items() if found]


def _some(items):
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


if __name__ == "__main__":
    sys.exit(run_main(main))
