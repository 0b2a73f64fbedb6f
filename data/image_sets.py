"""A data set by its name: which files belong to it, and in what pairs."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from data.images import images_by_name
from data.layout import BENCHMARKS, LAYOUTS, Layout, folders_in, images_in
from utility import UserError

DIV2K_EXTRA_BORDER = 6
DIV2K, BENCHMARK = LAYOUTS["div2k"], LAYOUTS["benchmark"]
BASICSR_HR = "GTmod12"
SEE = "see datasets/README.md"
NUMBERS = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
MAIN_SET = "DIV2K"  # as in EDSR-PyTorch, a range that stands alone is DIV2K's
EXAMPLES = "as 1-800/801-810, or for two training sets 1-800+1-2650/801-810"


@dataclass(frozen=True)
class Pair:
    """One image: its bare name, its LR file, and its HR file where there is one."""

    name: str
    lr: Path
    hr: Path | None


@dataclass(frozen=True)
class ImageSet:
    """A named data set. root: the folder all its images lie below. luma: whether its PSNR is taken on luma.

    note: which of its images were chosen, for the log.
    """

    name: str
    root: Path
    pairs: list
    luma: bool
    note: str = ""

    def border(self, scale: int) -> int:
        """Pixels on each side that tests leave out: as published, more of DIV2K than of the benchmark sets."""
        return scale if self.luma else scale + DIV2K_EXTRA_BORDER


def parse_ranges(data_range: str) -> list[list[tuple[int, int]]]:
    """'1-800+1-2650/801-810' -> [[(1, 800), (1, 2650)], [(801, 810)]]: training, then testing where it is given.

    Numbers count the sorted images from 1, both ends included. Raises UserError.
    """
    parts = [[NUMBERS.fullmatch(text) for text in part.split("+")] for part in data_range.split("/")]
    if len(parts) > 2 or not all(match for part in parts for match in part):
        raise UserError(f"--data_range {data_range}: expected first-last/first-last, {EXAMPLES}")
    ranges = [[(int(match[1]), int(match[2])) for match in part if match] for part in parts]
    if not all(1 <= first <= last for part in ranges for first, last in part):
        raise UserError(f"--data_range {data_range}: expected first-last with 1 <= first <= last, {EXAMPLES}")
    return ranges


def range_of_each_set(ranges: list[tuple[int, int]], names: list[str], data_range: str) -> list[tuple[int, int] | None]:
    """The range of each set in `names`, None for all its images. Raises UserError for more ranges than sets.

    Several ranges belong to the sets in their order. One for several sets is DIV2K's (also of its JPEG inputs), or the
    first set's.
    """
    if len(ranges) > max(1, len(names)):
        raise UserError(f"--data_range {data_range}: {len(ranges)} ranges for {'+'.join(names)}; give one a set")
    if len(ranges) == 1:
        main = [name.partition("-Q")[0] == MAIN_SET for name in names]
        owners = main if any(main) else [index == 0 for index in range(len(names))]
        return [ranges[0] if owner else None for owner in owners]
    return [*ranges, *[None] * (len(names) - len(ranges))]


def find_training_sets(dir_data: str | Path, names: list[str], *, scale: int, data_range: str) -> list[ImageSet]:
    """The sets <dir_data>/<name>, each with the images that the first part of `data_range` names. Raises UserError."""
    wanted = range_of_each_set(parse_ranges(data_range)[0], names, data_range)
    return [_ranged_set("--data_train", dir_data, name, scale, images)
            for name, images in zip(names, wanted, strict=True)]


def find_test_sets(dir_data: str | Path, names: list[str], *, scale: int, data_range: str,
                   dir_demo: str | Path | None = None, test_only: bool = False) -> list[ImageSet]:
    """The test sets `names`: Demo (the images in dir_demo), <dir_data>/benchmark/<name>, or else <dir_data>/<name>.

    Sets of the last kind, such as DIV2K, give the images that the second part of `data_range` names; with `test_only`
    a single part will do. Set5 and the like are measured as benchmark sets in either place. Raises UserError, also when
    no image is left in a set.
    """
    for name in names:
        _check_name("--data_test", name)
    whole = {name for name in names if name == "Demo" or os.path.isdir(_benchmark_folder(dir_data, name))}
    numbered = [name for name in names if name not in whole]
    parts = parse_ranges(data_range)
    lacking = [name for name in numbered if numbered_layouts(dir_data, name)]
    if len(parts) == 1 and lacking and not test_only:
        raise UserError(f"--data_range {data_range}: --data_test {lacking[0]} needs a second range, as 1-800/801-810")
    wanted = iter(range_of_each_set(parts[-1], numbered, data_range) if numbered else [])
    return [_benchmark_set(dir_data, name, scale, dir_demo) if name in whole else
            _ranged_set("--data_test", dir_data, name, scale, next(wanted)) for name in names]


def _benchmark_set(dir_data, name, scale, dir_demo):
    if name == "Demo":
        pairs = [Pair(stem, path, None) for stem, path in _some_images(dir_demo, "--dir_demo").items()]
        return ImageSet(name, Path(dir_demo), pairs, luma=True)
    folder = _benchmark_folder(dir_data, name)
    images = [(stem, path, BENCHMARK) for stem, path in _some_images(folder).items()]
    return ImageSet(name, folder.parent, _pair_up(folder.parent, images, scale), luma=True)


def _benchmark_folder(dir_data, name):
    folder, beside = (BENCHMARK.hr_folder(root / name) for root in (Path(dir_data) / "benchmark", Path(dir_data)))
    return beside if name in BENCHMARKS and os.path.isdir(beside) and not os.path.isdir(folder) else folder


def numbered_layouts(dir_data: str | Path, name: str) -> list[Layout]:
    """The layouts in which <dir_data>/<name> has an HR folder, first choice first; `<Name>-Q<q>` has JPEG inputs."""
    base, quality = _base_and_quality(name)
    layouts = [Layout(hr, hr, f"{base}_Q{quality}" if quality else f"{hr.removesuffix('HR')}LR_bicubic")
               for hr in dict.fromkeys((f"{base}_train_HR", DIV2K.hr, f"{base}_HR", BENCHMARK.hr))]
    return [layout for layout in layouts if os.path.isdir(layout.hr_folder(Path(dir_data) / base))]


def valid_layout(layout: Layout) -> Layout | None:
    """Where the images lie that a set publishes to validate with, as DIV2K's 801-900; None for other layouts."""
    valid = Layout("valid", *(part.replace("_train_", "_valid_") for part in (layout.hr, layout.lr)))
    return valid if valid.hr != layout.hr else None


def _ranged_set(flag, dir_data, name, scale, wanted):
    """A set in DIV2K's layout. wanted: first and last number, from 1, in its sorted HR images; None for all of them."""
    _check_name(flag, name)
    layouts = numbered_layouts(dir_data, name)
    if not layouts:
        remedy = _from_another_layout(dir_data, name) if flag == "--data_test" else ""
        expected = f"{_what_is_there(dir_data)}; expected {_expected(flag, name, scale)}; {SEE}"
        raise UserError(f"{flag} {name}: {remedy or expected}")
    root = Path(dir_data) / _base_and_quality(name)[0]
    layout = next((layout for layout in layouts if os.path.isdir(layout.lr_folder(root, scale))), layouts[0])
    images = _numbered_images(root, layout, to_train=flag == "--data_train")
    first, last = wanted or (1, len(images))
    chosen = images[first - 1 : last]
    if not chosen:
        raise UserError(f"--data_range {first}-{last}: {root} has images 1-{len(images)}; choose a range within")
    note = (f"{root}: images {first}-{first + len(chosen) - 1} of {len(images)} (--data_range), {chosen[0][0]} to "
            f"{chosen[-1][0]}")
    return ImageSet(name, root, _pair_up(root, chosen, scale), luma=False, note=note)


def _numbered_images(root, layout, *, to_train):
    """(name, HR path, layout) of all images: those to train with, then, for tests, DIV2K's 801-900 if they lie apart.

    Where some of 1-800 were left out, 1-800 would reach into them.
    """
    images = {name: (name, path, layout) for name, path in _some_images(layout.hr_folder(root)).items()}
    valid = None if to_train else valid_layout(layout)
    if valid and os.path.isdir(valid.hr_folder(root)):
        for name, path in images_by_name(valid.hr_folder(root)).items():
            known = images.setdefault(name, (name, path, valid))[1]
            if known.stat().st_size != path.stat().st_size:
                raise UserError(f"{path}: {known} has the same name and is another image; rename one of them")
    return list(images.values())


def _pair_up(root, images, scale):
    """Find the LR image of each (name, HR path, layout). Returns a list of Pair, or raises UserError."""
    folders = {layout: layout.lr_folder(root, scale) for _, _, layout in images}
    for layout, folder in folders.items():
        if not os.path.isdir(folder):
            raise UserError(f"--scale {scale}: no folder {folder}; {_how_to_make(root, layout, scale)}")
    lr_images = {layout: images_by_name(folder) for layout, folder in folders.items()}
    pairs = []
    for name, hr, layout in images:
        lr = lr_images[layout].get(f"{name}x{scale}")
        if lr is None:
            raise UserError(f"{folders[layout]}: no {name}x{scale}.png for {hr}; {_how_to_make(root, layout, scale)}")
        pairs.append(Pair(name, lr, hr))
    return pairs


def _how_to_make(root, layout, scale):
    if not layout.lr.endswith("LR_bicubic"):
        return f"{layout.lr}/X{scale} holds JPEG inputs 0001x{scale}.jpg ..., which come with the data set"
    kind = BENCHMARK.name if layout.hr == BENCHMARK.hr else DIV2K.name
    scales = map(str, sorted({*layout.scales(root), scale}))
    command = f"--hr {shlex.quote(str(layout.hr_folder(root)))} --out {shlex.quote(str(root))} --layout {kind}"
    return f"make it with: python -m data.prepare {command} --scales {' '.join(scales)}"


def _what_is_there(dir_data):
    if not os.path.isdir(dir_data):
        return f"there is no --dir_data {dir_data}"
    there = [folder.name for folder in folders_in(dir_data) if numbered_layouts(dir_data, folder.name)]
    there += [f"benchmark/{folder.name}" for folder in folders_in(Path(dir_data) / "benchmark")
              if os.path.isdir(BENCHMARK.hr_folder(folder))]
    return f"--dir_data {dir_data} has {', '.join(there) or 'no data set'}"


def _from_another_layout(dir_data, name):
    """How to take a test set that is there in BasicSR's layout; "" where none is."""
    for root in (Path(dir_data) / "benchmark" / name, Path(dir_data) / name):
        if images_in(root / BASICSR_HR):
            out = Path(dir_data) / "benchmark" / name
            command = f"--hr {shlex.quote(str(root / BASICSR_HR))} --out {shlex.quote(str(out))}"
            return (f"{root} has BasicSR's layout; make {BENCHMARK.hr} and {BENCHMARK.lr} with: python -m data.prepare "
                    f"{command} --layout {BENCHMARK.name}")
    return ""


def _expected(flag, name, scale):
    """The layout in which a set of that name would be found."""
    base, quality = _base_and_quality(name)
    lr_folder = f"{base}_Q{quality}" if quality else f"{base}_train_LR_bicubic"
    numbered = f"{base}/{base}_train_HR/0001.png and {base}/{lr_folder}/X{scale}/0001x{scale}.png"
    if flag == "--data_train" or quality:
        return numbered
    return f"benchmark/{base}/HR/NAME.png and LR_bicubic/X{scale}/NAMEx{scale}.png, or {numbered}"


def _some_images(folder, flag=""):
    images = images_by_name(folder, flag)
    if not images:
        raise UserError(f"{flag} {folder}: no images in it; {SEE}".lstrip())
    return images


def _check_name(flag, name):
    if not name.strip(".") or Path(name).name != name:
        raise UserError(f"{flag} {name!r}: expected names of data sets, such as DIV2K or Set5+Set14, not paths")


def _base_and_quality(name):
    """'DIV2K-Q10' -> ('DIV2K', '10'), 'DIV2K' -> ('DIV2K', '')."""
    return re.fullmatch(r"(.+?)(?:-Q([0-9]+))?", name).groups(default="")
