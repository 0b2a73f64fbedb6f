"""Image files: what lies in a folder, how a file becomes an array, how an array becomes a PNG."""

import argparse
import contextlib
import logging
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from data.deep_colour import read_deep
from utility import UserError, atomic_path, check_file

log = logging.getLogger(__name__)

SUFFIXES = frozenset(".png .apng .jpg .jpeg .jpe .jfif .bmp .dib .tif .tiff .webp .gif .jp2 .j2k .jpf .jpx .tga .ppm "
                     ".pgm .pbm .pnm .pcx .avif".split())
MAX_PIXELS = 10**9  # more of them are a mistake, or a file made to fill the memory
LARGEST_PROFILE = 2**26  # bytes
PNG_START, CHUNK_FRAME = b"\x89PNG\r\n\x1a\n", 12  # what a file begins with; a chunk's bytes besides its content
DEEP = "deep"
ORIENTATION = 0x0112  # EXIF's tag, and how a picture that it describes is turned upright
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file to uint8 [h, w, 3] in 0..255, RGB, writable.

    Grey becomes three equal channels, a palette is expanded, 16 bits are scaled to 8 (round(v / 257), as MATLAB's
    im2uint8), CMYK and YCbCr are converted. Alpha is dropped, not composited: the colours stay those of the file, as
    with MATLAB's imread. An EXIF orientation is applied; of an animation the first frame is read.
    Raises UserError, naming the file, when it is missing, broken, no image, holds 32-bit or floating-point pixels, or
    more than max_pixels of them.
    """
    with decoded(path, max_pixels=max_pixels) as image:
        return np.array(rgb(image))


def rgb(image: Image.Image) -> Image.Image:
    """A Pillow image in RGB, alpha dropped."""
    if image.mode == "P":  # by way of RGBA, or Pillow warns of palettes with transparent entries
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextlib.contextmanager
def decoded(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Give the Pillow image in a file, decoded to 8 bits, upright; info[DEEP]: whether the file has more.

    Raises UserError as `read_image`.
    """
    with _opened(path, max_pixels) as image:
        turns = _orientation(image)
        deep = read_deep(image, path)
        if deep is None:
            image.load()
            turns = _orientation(image)  # Pillow turns TIFF itself while it loads
        if image.format == "PNG":
            with Image.open(path) as stored:
                stored.verify()  # the checksums, which decoding passes over
        upright = image if deep is None else deep
        info = {**image.info, DEEP: deep is not None}
        if turns in TURNS:
            upright = upright.transpose(TURNS[turns])
        upright.info = info
        yield upright


def image_shape(path: str | Path) -> tuple[int, int]:
    """Height and width, in pixels, of what `read_image` would give, from the file's header alone. Raises UserError."""
    with _opened(path, MAX_PIXELS) as image:
        width, height = image.size
        # Pillow decodes a PNG's pixels to look behind them
        header_tells = image.format != "PNG" or has_exif(path)
        turned = image.format != "TIFF" and header_tells and _orientation(image) >= 5  # Pillow turns TIFF itself
        return (width, height) if turned else (height, width)


def has_exif(path: str | Path) -> bool:
    """Whether a PNG file has an EXIF chunk, before its pixels or behind them; reads the headers of few chunks."""
    with open(path, "rb", buffering=0) as file:

        def header_at(place):
            file.seek(place)
            return file.read(8)

        place = len(PNG_START)
        while len(header := header_at(place)) == 8:
            size, kind = struct.unpack(">I4s", header)
            if kind == b"eXIf":
                return True
            step = size + CHUNK_FRAME
            # the pixels' chunks follow each other, most of one size: as many as there are can be passed over
            while kind == b"IDAT" and header_at(place + 2 * step) == header:
                step *= 2
            place += step
    return False


@contextlib.contextmanager
def _opened(path, max_pixels):
    """The Pillow image in a file, not decoded yet; what goes wrong in the block becomes a UserError of one line."""
    check_file(path)
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, a photograph of 180 megapixels, is not ours
    PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_PROFILE  # or colour profiles of more than 1 MB would be refused
    try:
        # by a file, or Pillow maps it to memory, and so lets the pixels of turned TIFF files get into disorder
        with open(path, "rb") as file, Image.open(file) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"{image.width}x{image.height} pixels are more than the limit of {max_pixels:,}")
            yield image
    except UserError:
        raise
    except Exception as error:  # decoders meet broken files with nearly any: SyntaxError, struct.error, ValueError ...
        raise UserError(f"{path}: {_reason(path, error)}") from error


def _reason(path, error):
    if getattr(error, "strerror", None):
        return f"cannot be read: {error.strerror}"
    if Path(path).stat().st_size == 0:
        return "the file is empty, not an image"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind this program can read"
    if "imagecodecs" in str(error):
        return "its compression needs one more package: pip install imagecodecs, or save it without compression"
    return f"not a readable image ({' '.join(str(error).split()) or type(error).__name__})"


def _orientation(image):
    with contextlib.suppress(Exception):  # broken EXIF data, of any kind, do no harm to the pixels
        return image.getexif().get(ORIENTATION, 1)
    return 1


def write_png(path: str | Path, image: np.ndarray, *, icc_profile: bytes | None = None,
              maker: str | None = None) -> None:
    """Write uint8 [h, w] or [h, w, 2 to 4] (grey and alpha, RGB, RGBA) as PNG, whatever the suffix, atomically.

    Missing parent folders are made. maker: text that says what made the file. Raises UserError when the file cannot be
    written, ValueError for another array.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] in (2, 3, 4)):
        raise ValueError(f"expected uint8 [h, w] or [h, w, 2 to 4], got {image.dtype} {list(image.shape)}")
    texts = PngImagePlugin.PngInfo()
    if maker:
        texts.add_text("Software", maker)
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, format="PNG", icc_profile=icc_profile,
                                                          pnginfo=texts)


def image_files(folder: str | Path, flag: str = "") -> list[Path]:
    """The image files of a folder (not of its subfolders), sorted by name, as a list of Path.

    A file counts as an image by its suffix, a broken link too: reading it says so. Others (Thumbs.db, notes) are left
    out, with one line in the log; hidden files without. With `flag`, by which a user named the folder, its folders of
    images have a line too. Raises UserError, which begins with `flag`, when the folder is missing or cannot be read.
    """
    folder = Path(folder)
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and
                       (path.is_file() or path.is_symlink() and not os.path.isdir(path)))
    except OSError as error:
        reason = "no such folder" if isinstance(error, FileNotFoundError) else \
            f"cannot be read as a folder of images: {error.strerror}"
        raise UserError(f"{flag} {folder}: {reason}".lstrip()) from error
    others = [path.name for path in files if path.suffix.lower() not in SUFFIXES]
    if others:
        log.info("%s: ignored %d file(s) that are no images, such as %r", folder, len(others), others[0])
    if flag and (inner := sorted(path.name for path in folder.iterdir() if _holds_images(path))):
        log.info("%s %s: ignored %d folder(s) of images in it, such as %r", flag, folder, len(inner), inner[0])
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def _holds_images(path):
    with contextlib.suppress(OSError):
        return path.is_dir() and not path.name.startswith(".") and any(
            file.suffix.lower() in SUFFIXES for file in path.iterdir())


def named_path(text: str) -> Path:
    """The type of a flag that names a file or folder; nothing, as an unset variable leaves it, names none."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a file or folder")
    return Path(text)


def read_folder(folder: str | Path, flag: str, use: Callable[[np.ndarray], Any], *,
                at_most: int = 10**9) -> tuple[list[Any], int]:
    """`use` of every image in a folder as `read_image` gives it, and how many can't be read: stderr lists these.

    at_most: of more images only so many, spread over the folder. Raises UserError, naming `flag`, where none is left.
    """
    files, made = image_files(folder, flag), []
    count = min(len(files), at_most)
    files = [files[place * len(files) // count] for place in range(count)]
    for path in files:
        try:
            made.append(use(read_image(path)))
        except UserError as error:
            print(f"error: {error}" if str(path) in str(error) else f"error: {path}: {error}", file=sys.stderr)
    if not made:
        raise UserError(f"{flag} {folder}: no images in it that can be read")
    return made, len(files) - len(made)


def images_by_name(folder: str | Path, flag: str = "") -> dict[str, Path]:
    """The image files of a folder as {name: path}, in sorted order; the name is `image_name` of the file.

    Raises UserError as `image_files`, and when two files would go by one name (a.png and a.jpg).
    """
    named = {}
    for path in image_files(folder, flag):
        name = image_name(path)
        if name in named:
            raise UserError(f"{folder}: {named[name].name} and {path.name} would both be called {name!r}; rename one")
        named[name] = path
    return named


def image_name(path: str | Path) -> str:
    """The bare name of an image file: no folder, no suffix, nothing that could lead a result to another folder."""
    return re.sub(r"[\x00-\x1f\x7f/\\:]", "_", Path(path).stem)
