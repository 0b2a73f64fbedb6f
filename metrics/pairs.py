"""Which super-resolved image belongs to which original, and how two files become arrays of one shape."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.images import image_files, image_name
from data.pictures import read_picture
from utility import UNFINISHED_TEST, UserError

RESULT_NAME = re.compile(r"((?P<bit>[0-9]{1,9})bit_)?(?P<name>.+)_x(?P<scale>[0-9]{1,9})_(?P<kind>SR|LR|HR)")
UPSCALED_NAME = re.compile(r"(?P<name>.+)_x(?P<scale>[0-9]{1,9})")  # quant.upscale's
CHOICE = {"--gt": "keep one of them", "--sr": "choose with --bit, or keep one of them"}


@dataclass(frozen=True)
class Pairs:
    """`found`: dict name -> (HR path, SR path), sorted; and the names of either folder without partner in the other.

    left_out: a line for each pair that could not be compared.
    """

    found: dict
    without_sr: list
    without_hr: list
    left_out: list = field(default_factory=list)


def find_pairs(gt: str | Path, sr: str | Path, *, scale: int, bit: int | None = None) -> Pairs:
    """Pair the images of folder `gt` with the outputs of folder `sr`.

    `baby.png` belongs to `4bit_baby_x4_SR.png` (of the given scale and bit), `baby_x4_SR.png`, `baby_x4.png` or
    `baby.png`, the first that is there, whatever the extensions. Other scales and bits, saved LR and HR images and
    files that are no images are passed over. Raises UserError for a missing folder, one that a test has not finished,
    no pair at all, two files for one name, or files of several widths.
    """
    if (mark := Path(sr) / UNFINISHED_TEST).exists():
        raise UserError(f"--sr {sr}: a test into it was stopped, or is at work ({mark.name}), so its pictures may be "
                        "of two networks; run the test again")
    originals = _by_name(((image_name(path), 0, path) for path in image_files(gt, "--gt")), flag="--gt")
    outputs = _by_name(_outputs(image_files(sr, "--sr"), scale=scale, bit=bit), flag="--sr")
    common = sorted(originals.keys() & outputs.keys())
    if not common:
        wanted = f"{'K' if bit is None else bit}bit_NAME_x{scale}_SR.png or NAME.png"
        raise UserError(f"--sr {sr}: holds no partner of an image in --gt {gt}; expected names are {wanted}")
    if len(kinds := {_told_bits(outputs[name]) for name in common}) > 1:
        raise UserError(f"--sr {sr}: holds results of several networks ({', '.join(sorted(kinds))}), whose mean says "
                        "nothing; choose with --bit, or keep one of them")
    used = {outputs[name] for name in common}
    return Pairs({name: (originals[name], outputs[name]) for name in common},
                 without_sr=sorted(originals.keys() - outputs.keys()),
                 without_hr=sorted({path: name for name, path in outputs.items() if path not in used}.values()))


def read_pair(hr_path: str | Path, sr_path: str | Path, *, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Both images as uint8 [H, W, C], the HR image cropped to the size of the SR image.

    C is 1 where both files are grey, else 3: a grey file beside a colour one becomes three equal channels, as in
    training and testing. Raises UserError for unreadable files and for sizes that do not belong together.
    """
    hr, sr = read_picture(hr_path), read_picture(sr_path)
    try:
        cropped = crop_to(hr.colours, sr.colours, scale=scale)
    except ValueError as error:
        raise UserError(f"{sr_path}: {error}; compare with the HR image it was made from ({hr_path})") from None
    channels = 1 if hr.grey and sr.grey else 3
    return cropped[:, :, :channels], sr.colours[:, :, :channels]


def crop_to(hr: np.ndarray, sr: np.ndarray, *, scale: int) -> np.ndarray:
    """The top left part of `hr` that `sr` covers: networks drop the rows and columns beyond a multiple of the scale.

    hr, sr: arrays [H, W, C]. Raises ValueError unless `hr` is as large as `sr` or larger by less than `scale`.
    """
    (height, width), (sr_height, sr_width) = hr.shape[:2], sr.shape[:2]
    if not (0 <= height - sr_height < scale and 0 <= width - sr_width < scale):
        raise ValueError(f"{sr_width}x{sr_height} pixels do not fit the HR image's {width}x{height} at scale {scale}")
    return hr[:sr_height, :sr_width]


def _outputs(paths, *, scale, bit):
    """(name, rank, path) of every super-resolved image; the more its name says, the higher the rank."""
    for path in paths:
        match = RESULT_NAME.fullmatch(path.stem)
        if not match:
            yield image_name(path), 0, path
            if (upscaled := UPSCALED_NAME.fullmatch(path.stem)) and int(upscaled["scale"]) == scale:
                yield upscaled["name"], 1, path
        elif match["kind"] == "SR" and int(match["scale"]) == scale:
            if match["bit"] is None:
                yield match["name"], 2, path
            elif bit in (None, int(match["bit"])):
                yield match["name"], 3, path


def _told_bits(path):
    """The bits that a result's name tells, in words."""
    match = RESULT_NAME.fullmatch(path.stem)
    return f"{match['bit']} bit" if match and match["bit"] else "names without bits"


def _by_name(candidates, *, flag):
    """dict name -> path of the highest rank."""
    best = {}
    for name, rank, path in candidates:
        other_rank, other = best.get(name, (-1, None))
        if rank == other_rank:
            raise UserError(f"{flag} {path.parent}: {other.name} and {path.name} both stand for {name}; {CHOICE[flag]}")
        if rank > other_rank:
            best[name] = rank, path
    return {name: path for name, (_, path) in best.items()}
