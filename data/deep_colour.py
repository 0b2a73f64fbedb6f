"""16-bit images as 8 bits, rounded. Pillow keeps 16-bit colour's high byte: a quarter of the values are off by 1."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

BITS_PER_SAMPLE = 258  # TIFF tag
PNG_DEPTH = 24  # where its header has the bits
ASSOCIATED_ALPHA = 1
COLOURS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3}  # TIFF's: channels without alpha


def read_deep(image: Image.Image, path: str | Path) -> Image.Image | None:
    """The Pillow image (L, LA, RGB or RGBA) of a 16-bit file, each value round(v / 257); None for a file of 8 bits.

    image: the file as Pillow opened it, not decoded yet; a colour that stands for transparency leaves its info. PNG is
    decoded by torchvision, TIFF by tifffile. Raises ValueError for pixels of other depths, whose range a file does not
    tell, for floating-point ones, and for what these can't read.
    """
    if image.format == "PNG" and _png_depth(path) == 16:
        return _eight_bits(_with_alpha(_read_png(path), image.info.pop("transparency", None)))
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())
    if image.format == "TIFF" and 16 in bits:
        return _eight_bits(_read_tiff(path))
    if image.mode.startswith(("I", "F")):
        values = np.array(image)
        if image.format == "TIFF":
            raise ValueError(f"{bits[0]}-bit pixels; save it with 8 or 16 bits")
        if image.mode == "F" or not 0 <= values.min() <= values.max() <= 65535:
            raise ValueError("32-bit pixels; save it with 8 or 16 bits")
        return _eight_bits(values[..., None])
    return None


def _png_depth(path):
    with open(path, "rb") as file:
        return file.read(PNG_DEPTH + 1)[PNG_DEPTH]


def _read_png(path):
    from torchvision.io import decode_png  # slow to import, and few files need it

    return decode_png(torch.from_numpy(np.fromfile(path, np.uint8))).permute(1, 2, 0).numpy()


def _with_alpha(values, transparent):
    """The values with an alpha channel where one colour of the file, None for none, is transparent."""
    if transparent is None:
        return values
    opaque = (values != np.array(transparent)).any(axis=2, keepdims=True)
    return np.concatenate([values, opaque * np.uint16(65535)], axis=2)


def _read_tiff(path):
    """The first page, uint16 [h, w, channels], alpha last."""
    import tifffile  # few files need it

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        colours = COLOURS.get(page.photometric.name if page.photometric is not None else "")
        if colours is None or page.samplesperpixel not in (colours, colours + 1) or page.dtype != np.uint16:
            raise ValueError("16-bit pixels that are neither grey nor RGB; save it with 8 bits")
        values = page.asarray(squeeze=False)[:, 0].transpose(1, 2, 0, 3)  # of planes or of pixels together
    values = values.reshape(page.imagelength, page.imagewidth, -1)
    if page.photometric.name == "MINISWHITE":
        values = np.concatenate([65535 - values[..., :1], values[..., 1:]], axis=2)
    if page.extrasamples[:1] == (ASSOCIATED_ALPHA,):  # the colours are multiplied by it
        alpha = values[..., -1:]
        values = np.concatenate([np.minimum(values[..., :-1] * 65535.0 / np.maximum(alpha, 1), 65535), alpha], axis=2)
    return values


def _eight_bits(values):
    """A Pillow image of whole numbers 0..65535, [h, w, 1 to 4]."""
    values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))
