"""Image files: what lies in a folder, how a file becomes an array, how an array becomes a PNG."""

import contextlib
import logging
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.deep_colour import read_deep
from utility import UserError, atomic_path

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".j2k", ".tga")
    + (".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".avif")
)
ORIENTED = ("JPEG", "MPO", "WEBP")  # cameras' formats; Pillow turns TIFF itself, PNG never stands on its side


def read_image(path):
    """Decode an image file to uint8 [h, w, 3] in 0..255, RGB, writable.

    Grey becomes three equal channels, a palette is expanded, 16 bits are scaled to 8 (round(v / 257), as MATLAB's
    im2uint8), CMYK and YCbCr are converted. Alpha is dropped, not composited: the colours stay those of the file, as
    with MATLAB's imread. An EXIF orientation is applied; of an animation the first frame is read.
    Raises UserError, naming the file, when it is missing, broken, no image, or holds 32-bit or floating-point pixels.
    """
    with _one_line_errors(path), Image.open(path) as image:
        deep = read_deep(image)
        if deep is not None:
            return deep
        if image.format in ORIENTED:
            image = ImageOps.exif_transpose(image)
        if image.mode == "P":  # by way of RGBA, or Pillow warns of palettes with transparent entries
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def image_shape(path):
    """Height and width, in pixels, of what `read_image` would give, from the file's header alone. Raises UserError."""
    with _one_line_errors(path), Image.open(path) as image:
        width, height = image.size
        turned = image.format in ORIENTED and image.getexif().get(0x0112, 1) >= 5
        return (width, height) if turned else (height, width)


def write_png(path, image):
    """Write uint8 [h, w, 3] or [h, w] as PNG, whatever the suffix; a reader sees the old file or the whole new one.

    Missing parent folders are made. Raises UserError when the file cannot be written, ValueError for another array.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f"expected uint8 [h, w, 3] or [h, w], got {image.dtype} {list(image.shape)}")
    try:
        with atomic_path(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def image_files(folder):
    """The image files of a folder (not of its subfolders), sorted by name, as a list of Path.

    A file counts as an image by its suffix. Other files (Thumbs.db, notes) are left out, with one line in the log;
    hidden files without. Raises UserError when the folder is missing or cannot be read.
    """
    folder = Path(folder)
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a folder of images: {error.strerror}") from error
    others = [path.name for path in files if path.suffix.lower() not in SUFFIXES]
    if others:
        log.info("%s: ignored %d file(s) that are no images, such as %r", folder, len(others), others[0])
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def images_by_name(folder):
    """The image files of a folder as {name: path}, in sorted order; the name is `image_name` of the file.

    Raises UserError as `image_files`, and when two files would go by one name (a.png and a.jpg).
    """
    named = {}
    for path in image_files(folder):
        name = image_name(path)
        if name in named:
            raise UserError(f"{folder}: {named[name].name} and {path.name} would both be called {name!r}; rename one")
        named[name] = path
    return named


def image_name(path):
    """The bare name of an image file: no folder, no suffix, nothing that could lead a result to another folder."""
    return re.sub(r"[\x00-\x1f\x7f/\\:]", "_", Path(path).stem)


@contextlib.contextmanager
def _one_line_errors(path):
    """Whatever opening or decoding `path` raises becomes a UserError of one line that names the file."""
    try:
        yield
    except Exception as error:  # decoders meet broken files with nearly any: SyntaxError, struct.error, ValueError ...
        raise UserError(f"{path}: {_reason(path, error)}") from error


def _reason(path, error):
    if getattr(error, "strerror", None):
        return f"cannot be read: {error.strerror}"
    if Path(path).stat().st_size == 0:
        return "the file is empty, not an image"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind this program can read"
    return f"not a readable image ({' '.join(str(error).split()) or type(error).__name__})"
