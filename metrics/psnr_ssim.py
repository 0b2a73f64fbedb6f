"""PSNR and SSIM of super-resolved images against their originals: the figures MATLAB gives.

    python metrics/psnr_ssim.py --gt datasets/benchmark/Set5/HR --sr RUN/results-Set5 --scale 4 --bit 4
"""

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if not __package__:  # run as a script: the folder of this file stands where the repository should
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from metrics import functional
from metrics.pairs import Pairs, find_pairs, read_pair
from utility import UserError, first_line, run_main


@dataclass(frozen=True)
class Score:
    """PSNR in dB (infinite for identical images) and SSIM of one image, or their means. grey: both files are grey."""

    name: str
    psnr: float
    ssim: float
    grey: bool = False


def evaluate(gt: str | Path, sr: str | Path, *, scale: int, bit: int | None = None, luma: bool = True,
             border: int | None = None) -> tuple[list[Score], Pairs]:
    """Compare the images in folder `sr` with their partners in folder `gt`.

    Returns (scores, pairs): a Score per pair that can be compared, in the order of the names, and the
    `metrics.pairs.Pairs` they come from, with a line for each that can't be. Arguments as in `find_pairs` and
    `compare`. Raises UserError for folders that do not fit, and where no pair can be compared.
    """
    pairs = find_pairs(gt, sr, scale=scale, bit=bit)
    scores, problems = [], []
    for hr_path, sr_path in pairs.found.values():
        try:
            scores.append(compare(hr_path, sr_path, scale=scale, luma=luma, border=border))
        except UserError as error:
            problems.append(str(error))
    if not scores:
        raise UserError(problems[0])
    return scores, replace(pairs, left_out=problems)


def compare(hr_path: str | Path, sr_path: str | Path, *, scale: int, luma: bool = True,
            border: int | None = None) -> Score:
    """The Score of one image; `border` defaults to `scale`, as on the benchmark sets.

    luma: compare the luma of colour images, else R, G and B. Two grey files are compared as they are, in 0..255, as by
    the MATLAB script. The same pixels stored as colour, or tested by a network of one colour, are compared in luma's
    16..235, where PSNR is some 1.3 dB higher. Raises UserError for unreadable files, sizes that do not belong together
    and images too small for SSIM.
    """
    border = scale if border is None else border
    hr, sr = (torch.from_numpy(image).permute(2, 0, 1) for image in read_pair(hr_path, sr_path, scale=scale))
    try:
        psnr = functional.psnr(sr, hr, border=border, luma=luma)
        ssim = functional.ssim(sr, hr, border=border, luma=luma)
    except ValueError as error:
        raise UserError(f"{sr_path}: {error}; leave this image out or make --border smaller") from None
    return Score(Path(hr_path).stem, psnr, ssim, grey=len(hr) == 1)


def mean_score(scores: Sequence[Score]) -> Score:
    """The Score named "mean": the mean of the PSNR figures and that of the SSIM figures."""
    count = len(scores)
    return Score("mean", sum(score.psnr for score in scores) / count, sum(score.ssim for score in scores) / count)


def format_table(scores: Sequence[Score]) -> str:
    """A line per image and the mean, six decimals."""
    rows = [("image", "PSNR (dB)", "SSIM")]
    rows += [(score.name, f"{score.psnr:.6f}", f"{score.ssim:.6f}") for score in [*scores, mean_score(scores)]]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:<{width}}  {psnr:>10}  {ssim:>8}" for name, psnr, ssim in rows)


def format_json(scores: Sequence[Score], pairs: Pairs, options: Namespace) -> str:
    """The settings, every image, the mean and the names without partner; identical images have PSNR Infinity."""
    mean = mean_score(scores)
    return json.dumps({
        "scale": options.scale,
        "bit": options.bit,
        "border": options.scale if options.border is None else options.border,
        "channels": "rgb" if options.rgb else "luma",
        "images": [asdict(score) for score in scores],
        "mean": {"psnr": mean.psnr, "ssim": mean.ssim},
        "missing_sr": pairs.without_sr,
        "missing_gt": pairs.without_hr,
        "left_out": pairs.left_out,
    }, indent=2)


def parse_options(argv: Sequence[str] | None = None) -> Namespace:
    parser = argparse.ArgumentParser(description=first_line(__doc__), epilog="baby.png in --gt is compared with "
                                     "4bit_baby_x4_SR.png, baby_x4_SR.png, baby_x4.png or baby.png in --sr. Tests "
                                     "measure DIV2K and the like on RGB: --rgb, and --border SCALE+6.")
    parser.add_argument("--gt", required=True, metavar="DIR", help="folder of the original HR images")
    parser.add_argument("--sr", required=True, metavar="DIR", help="folder of the super-resolved images")
    parser.add_argument("--scale", required=True, type=int, metavar="S", help="upscaling factor: 2, 3, 4, ...")
    parser.add_argument("--bit", type=int, metavar="K", help="of several bit widths in --sr, the one to take")
    parser.add_argument("--rgb", action="store_true", help="compare R, G and B instead of luma")
    parser.add_argument("--border", type=int, metavar="N", help="pixels left out at each side (default: the scale)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    if options.border is not None and options.border < 0:
        raise UserError(f"--border {options.border}: give 0 pixels or more")
    if options.scale < 1:
        raise UserError(f"--scale {options.scale}: no upscaling factor; give 2, 3, 4, ...")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures. Returns the exit code: 1 where an image of --gt was left out or has no partner."""
    options = parse_options(argv)
    scores, pairs = evaluate(options.gt, options.sr, scale=options.scale, bit=options.bit, luma=not options.rgb,
                             border=options.border)
    notes = [f"missing: {name} has no partner in --sr {options.sr}" for name in pairs.without_sr]
    notes += [f"missing: {name} has no partner in --gt {options.gt}" for name in pairs.without_hr]
    notes += [f"left out: {problem}" for problem in pairs.left_out]
    if not options.rgb and (grey := ", ".join(score.name for score in scores if score.grey)):
        notes.append(f"note: {grey}: two grey files, compared in 0..255; luma has 16..235, where PSNR is 1.3 dB higher")
    for note in notes:
        print(note, file=sys.stderr)
    print(format_json(scores, pairs, options) if options.json else format_table(scores))
    return 1 if pairs.left_out or pairs.without_sr else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
