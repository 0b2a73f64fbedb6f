"""What belongs into a prepared data set: files, names, settings, and the refusal to mix what does not go together."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.images import image_files, images_by_name
from data.layout import Layout, images_in
from utility import UserError, atomic_path, check_file, whole_number

SETTINGS_FILE = "prepare.json"
NAMES_FILE = "names.json"
NUMBER = re.compile(r"[0-9]{4}")
GIVEN_NUMBER = re.compile(r"[0-9]{4,9}")


@dataclass(frozen=True)
class Job:
    """One image to prepare. targets: dict scale -> path of the PNG file of that scale, scale 1 being the HR image."""

    source: Path
    targets: dict
    border: str

    def files(self, *, there: bool) -> dict[int, Path]:
        """Those of the targets that are there, or those that are missing."""
        return {scale: path for scale, path in self.targets.items() if path.exists() is there}


def plan(hr: Path, out: Path, layout: Layout, *, scales: Sequence[int],
         border: str) -> tuple[list[Job], dict[str, str]]:
    """The jobs that fill `out`, one per image of the folder `hr`, and the numbers given, as dict number -> file name.

    layout: a Layout; div2k numbers the images unless all their names are four digits already, benchmark keeps names.
    Numbers given in an earlier run stay, and so do all names where `hr` is the data set's own HR folder.
    Raises UserError for no images, two of one name, and where the result would mix borders or scales.
    """
    sources = image_files(hr, "--hr")
    if not sources:
        raise UserError(f"--hr {hr}: no images in it; give a folder that holds HR images itself")
    _check_settings(out, layout, border)
    numbers = read_numbers(out / NAMES_FILE)
    in_place = hr.resolve() == layout.hr_folder(out).resolve()
    if in_place:
        if others := [path.name for path in sources if path.suffix != ".png"]:
            raise UserError(f"--hr {hr}: {others[0]} is no .png; move the folder away and give it from there")
        names = {path.stem: path for path in sources}
    elif layout.name == "div2k" and (numbers or not all(NUMBER.fullmatch(path.stem) for path in sources)):
        numbers = _numbers(sources, numbers, layout.hr_folder(out))
        number_of = {file_name: number for number, file_name in numbers.items()}
        names = {number_of[path.name]: path for path in sources}
    else:
        names = images_by_name(hr)
    _check_scales(out, layout, scales, names)
    jobs = [Job(path, {scale: layout.path(out, name, scale) for scale in (1, *scales)}, border)
            for name, path in names.items()]
    return jobs, numbers


def read_json(path: Path) -> dict:
    """The object in a JSON file, {} where there is nothing. Raises UserError when it is no JSON object."""
    if not os.path.lexists(path):
        return {}
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no JSON object; restore it, or choose another --out")
    return content


def read_numbers(path: Path) -> dict[str, str]:
    """dict number -> file name of names.json. Raises UserError for what could not have been written there by `plan`."""
    numbers = read_json(path)
    for number, name in numbers.items():
        if not GIVEN_NUMBER.fullmatch(number) or not isinstance(name, str):
            raise UserError(f"{path}: {number!r}: {name!r} is no number with a file name; restore it, or remove it")
    return numbers


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=1) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _numbers(sources, numbers, folder):
    """dict number -> file name, `numbers` and those of the sources without one, in order, after all in `folder` too.

    A source that is there under its own name, from a time when all names were numbers, keeps it.
    """
    there = {path.stem for path in images_in(folder)} - numbers.keys()
    own = {path.stem: path.name for path in sources if path.stem in there and path.name not in numbers.values()}
    in_use = [*numbers, *there]
    numbers = numbers | own
    first = max((whole_number(number) or 0 for number in in_use), default=0) + 1
    new = [path.name for path in sources if path.name not in numbers.values()]
    return numbers | {f"{number:04d}": name for number, name in enumerate(new, start=first)}


def _check_settings(out, layout, border):
    recorded = read_json(out / SETTINGS_FILE)
    for key, value in {"layout": layout.name, "border": border}.items():
        if recorded.get(key, value) != value:
            reason = f"{out} was prepared with {recorded[key]}; give that, or choose another --out"
            raise UserError(f"--{key} {value}: {reason}")


def _check_scales(out, layout, scales, names):
    present = layout.scales(out)
    if not set(present) <= set(scales):
        every = " ".join(str(scale) for scale in sorted({*present, *scales}))
        raise UserError(f"--scales: {out} holds others already; give --scales {every}, or choose another --out")
    folder = layout.hr_folder(out)
    others = [path.stem for path in images_in(folder) if path.stem not in names]
    added = [scale for scale in scales if scale not in present]
    if others and added:
        lack = f"X{added[0]} would lack images that {folder} has and --hr has not, such as {others[0]}"
        raise UserError(f"--scales: {lack}; choose another --out")
