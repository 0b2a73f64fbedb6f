"""The figure of super-resolution papers: the full image with a frame, and what is in the frame from every result.

    python -m metrics.figure --gt HR.png --sr A.png B.png --labels "2 bit" "4 bit" --crop 30,40,80,60 --out figure.png
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from PIL import Image

from data.pictures import read_picture
from metrics import functional
from metrics.pairs import RESULT_NAME, crop_to
from utility import MAKER, UserError, add_force, atomic_path, check_output, first_line, run_main, whole_number

# inches: the text width of a two-column paper, around everything, between pictures, the two lines under each
WIDTH, MARGIN, GAP, CAPTION = 7.0, 0.02, 0.07, 0.36
POINTS_PER_INCH = 72
FONT_SIZE, SMALLEST_FONT_SIZE = 8.0, 5.0
FRAME = "#e3211c"
MARKED_BY = {"png": "Software", "pdf": "Creator", "svg": "Creator", "ps": "Creator", "eps": "Creator"}
MARKED_BY_EXIF, SOFTWARE = ("jpg", "jpeg", "tif", "tiff", "webp"), 0x0131
SMALLEST_DPI, LARGEST_DPI = 10, 2400  # with fewer, letters have no pixel
USUAL_SCALE = 4


def crop_figure(hr: np.ndarray, results: Mapping[str, np.ndarray], *, crop: tuple[int, int, int, int] | None = None,
                border: int = 4, psnr_of: str = "image", title: str = "HR image") -> Figure:
    """The full HR image with the crop's frame in it; beside it the crop from HR and from every result, with its PSNR.

    hr: uint8 [H, W, 3]. results: dict label -> uint8 [H, W, 3]. crop: (x, y, width, height) in pixels; None takes
    `worst_crop`. psnr_of: luma PSNR of the whole "image" but for `border` pixels at each side, as tables give it, or of
    the "crop" alone. title: what stands under the full image. The best figure is bold. Returns a matplotlib Figure.
    Raises ValueError for images of unequal size and for a crop that is not inside the image.
    """
    for label, sr in results.items():
        if sr.shape != hr.shape:
            raise ValueError(f"{label} has the shape {sr.shape}, the HR image {hr.shape}")
    x, y, width, height = crop or worst_crop(hr, results.values(), border=border)
    if not (0 <= x < x + width <= hr.shape[1] and 0 <= y < y + height <= hr.shape[0]):
        raise ValueError(f"{x},{y},{width},{height} is not inside the image's {hr.shape[1]}x{hr.shape[0]} pixels")
    inside = np.s_[y : y + height, x : x + width]
    compared, border = (np.s_[:], border) if psnr_of == "image" else (inside, 0)
    values = [functional.psnr(_tensor(sr[compared]), _tensor(hr[compared]), border=border) for sr in results.values()]
    size, full, tiles = _layout(hr.shape[1] / hr.shape[0], width / height, 1 + len(results))
    figure = Figure(figsize=size)
    axes = _draw(figure, full, hr, [title, f"{hr.shape[1]} \u00d7 {hr.shape[0]}"], interpolation="antialiased")
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=FRAME, linewidth=1.4))
    _draw(figure, tiles[0], hr[inside], ["HR", f"PSNR of the {psnr_of}"], frame=FRAME)
    for tile, (label, sr), value in zip(tiles[1:], results.items(), values, strict=True):
        best = len(values) > 1 and value == max(values)
        _draw(figure, tile, sr[inside], [label, f"{value:.2f} dB"], frame=FRAME, bold=best)
    return figure


def worst_crop(hr: np.ndarray, images: Iterable[np.ndarray], *, border: int = 0,
               size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
    """The crop (x, y, width, height) of the largest squared luma error, summed over `images`, away from the border.

    hr and images: uint8 [H, W, 3]. size: (width, height), by default 4:3 and a fifth of the short side high.
    Raises ValueError when the border leaves nothing of the image.
    """
    height, width = hr.shape[:2]
    if size is None:
        crop_height = min(max(min(height, width) // 5, 32), height - 2 * border)
        size = min(crop_height * 4 // 3, width - 2 * border), crop_height
    if min(size) < 1:
        raise ValueError(f"a border of {border} pixels leaves nothing of {height}x{width} pixels")
    luma = functional.to_luma(_tensor(hr))
    error: Any = sum((functional.to_luma(_tensor(image)) - luma).square() for image in images)
    error = error[0, border : height - border, border : width - border]
    # sums over all windows, from the four corners of the running total
    total = torch.nn.functional.pad(error.cumsum(0).cumsum(1), (1, 0, 1, 0))
    w, h = size
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    y, x = divmod(int(sums.argmax()), sums.shape[1])
    return x + border, y + border, w, h


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 300) -> None:
    """Write the kind of picture that the extension of `path` says, marked as ours. Raises UserError for another one."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, **_marked(path))


def _marked(path):
    """savefig's arguments that put MAKER into the file."""
    kind = Path(path).suffix[1:].lower()
    if kind in MARKED_BY:
        return {"metadata": {MARKED_BY[kind]: MAKER}}
    if kind not in MARKED_BY_EXIF:
        known = ", ".join((*MARKED_BY, *MARKED_BY_EXIF))
        raise UserError(f"--out {path}: no known kind of picture; end the name in one of {known}")
    exif = Image.Exif()
    exif[SOFTWARE] = MAKER
    return {"pil_kwargs": {"exif": exif}}


def main(argv: Sequence[str] | None = None) -> None:
    options = _parse_options(argv)
    _marked(options.out)
    check_output(options.out, flag="--out", mark=MAKER.encode(), inputs=[options.gt, *options.sr], force=options.force)
    labels = options.labels or _default_labels(options.sr)
    if len(labels) != len(options.sr) or len(set(labels)) != len(labels):
        raise UserError(f"--labels: {len(labels)} for {len(options.sr)} images; give each image in --sr its own label")
    scale = _scale_of(options.sr, given=options.scale)
    hr, images = _read_images(options.gt, options.sr, scale=scale)
    results = dict(zip(labels, images, strict=True))
    title = options.title or Path(options.gt).stem
    try:
        crop = _parse_crop(options.crop)
        figure = crop_figure(hr, results, crop=crop, border=scale, psnr_of=options.psnr, title=title)
    except ValueError as error:
        raise UserError(f"--crop {options.crop or 'by error'}: {error}; give another as x,y,width,height") from None
    save_figure(figure, options.out, dpi=options.dpi)
    print(options.out)


def _parse_options(argv):
    parser = argparse.ArgumentParser(prog="python -m metrics.figure", description=first_line(__doc__))
    parser.add_argument("--gt", required=True, metavar="FILE", help="the original HR image")
    parser.add_argument("--sr", required=True, nargs="+", metavar="FILE", help="super-resolved images")
    parser.add_argument("--labels", nargs="+", help="what to write under each of them (default: from their names)")
    parser.add_argument("--crop", metavar="X,Y,W,H", help="what to enlarge, in pixels (default: the largest error)")
    parser.add_argument("--scale", type=int, help="upscaling factor; also the PSNR's border (default: that in the "
                        f"names of --sr, as 4bit_baby_x2_SR.png has it, else {USUAL_SCALE})")
    parser.add_argument("--psnr", choices=["image", "crop"], default="image", help="what PSNR is of (default: image)")
    parser.add_argument("--title", help="what to write under the full image (default: its file name)")
    parser.add_argument("--out", required=True, metavar="FILE", help="figure to write: .png, .pdf, .svg")
    parser.add_argument("--dpi", type=int, default=300, help="pixels per inch; it is 7 inches wide (default: 300)")
    add_force(parser)
    options = parser.parse_args(argv)
    if not SMALLEST_DPI <= options.dpi <= LARGEST_DPI:
        raise UserError(f"--dpi {options.dpi}: give {SMALLEST_DPI} to {LARGEST_DPI}")
    if options.scale is not None and options.scale < 1:
        raise UserError(f"--scale {options.scale}: no upscaling factor; give 2, 3, 4, ...")
    return options


def _parse_crop(text):
    if text is None:
        return None
    numbers = [whole_number(part.strip()) for part in text.split(",")]
    if len(numbers) != 4 or None in numbers:
        raise ValueError("not four whole numbers, 0 or more")
    return tuple(numbers)


def _read_images(gt, paths, *, scale):
    """HR cropped to the size of the results, and the results, which must all have one size."""
    original, *results = map(read_picture, (gt, *paths))
    hr, images = original.colours, [result.colours for result in results]
    if original.grey and any(result.grey for result in results):
        print("note: grey files are compared in luma's 16..235 here; metrics/psnr_ssim.py compares two of them in "
              "0..255, where PSNR is 1.3 dB lower", file=sys.stderr)
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise UserError(f"--sr {path}: not the size of {paths[0]}; compare results of one image and scale")
    try:
        return crop_to(hr, images[0], scale=scale), images
    except ValueError as error:
        raise UserError(f"--sr {paths[0]}: {error}; compare with the HR image it was made from") from None


def _scale_of(paths, *, given):
    """The scale that is given or that names of results tell. Raises UserError where these are several."""
    scales = {given} - {None}
    scales |= {int(match["scale"]) for match in (RESULT_NAME.fullmatch(Path(path).stem) for path in paths) if match}
    if len(scales) > 1:
        told = " and ".join(map(str, sorted(scales)))
        raise UserError(f"--scale and the names in --sr tell several, {told}; give results of one scale, and that")
    return scales.pop() if scales else USUAL_SCALE


def _default_labels(paths):
    """Bits where the names tell them, else file names, else the folders' names: the first that differ."""
    matches = [RESULT_NAME.fullmatch(Path(path).stem) for path in paths]
    bits = [f"{match['bit']} bit" for match in matches if match and match["bit"]]
    candidates = [bits, [Path(path).stem for path in paths], [Path(path).resolve().parent.name for path in paths]]
    return next((labels for labels in candidates if len(set(labels)) == len(paths)), [str(path) for path in paths])


def _tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _layout(full_aspect, tile_aspect, count):
    """Sizes in inches: the figure (width, height), then (left, top, width, height) of the full image and `count` tiles.

    The tiles stand in rows beside the full image, which is as high as the rows with the captions between them.
    """
    rows = 1 if count <= 3 or full_aspect > 4 else 2 if count <= 8 else 3
    columns = math.ceil(count / rows)
    between = (rows - 1) * CAPTION
    pictures_width = WIDTH - 2 * MARGIN - columns * GAP
    height = (pictures_width - full_aspect * between) / (full_aspect * rows + tile_aspect * columns)
    width = tile_aspect * height
    full_height = rows * height + between
    full = (MARGIN, MARGIN, full_aspect * full_height, full_height)
    left = MARGIN + full[2] + GAP
    corners = [(left + i % columns * (width + GAP), MARGIN + i // columns * (height + CAPTION)) for i in range(count)]
    tiles = [(*corner, width, height) for corner in corners]
    return (WIDTH, MARGIN + full_height + CAPTION), full, tiles


def _draw(figure, place, image, lines, *, interpolation="nearest", frame=None, bold=False):
    """Put one picture at `place` (inches from the top left), with centred lines under it; returns its axes."""
    left, top, width, height = place
    figure_width, figure_height = figure.get_size_inches()
    bottom = figure_height - top - height
    axes = figure.add_axes((left / figure_width, bottom / figure_height, width / figure_width, height / figure_height))
    axes.imshow(image, interpolation=interpolation, aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=frame is not None, edgecolor=frame, linewidth=1.0)
    for number, line in enumerate(lines):
        # no formulas between dollar signs, no characters that can't be encoded
        line = line.encode(errors="backslashreplace").decode().replace("$", r"\$")
        natural = TextPath((0, 0), line, size=FONT_SIZE).get_extents().width if line.strip() else 1.0
        size = FONT_SIZE * min(1.0, max(width * POINTS_PER_INCH / natural, SMALLEST_FONT_SIZE / FONT_SIZE))
        y = bottom - 0.04 - number * 0.145
        weight = "bold" if bold and number else "normal"
        centre = (left + width / 2) / figure_width
        figure.text(centre, y / figure_height, line, ha="center", va="top", fontsize=size, fontweight=weight)
    return axes


if __name__ == "__main__":
    sys.exit(run_main(main))
