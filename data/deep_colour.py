"""16-bit images as 8 bits, rounded. Pillow alone keeps the high byte of 16-bit colour, and clips 16-bit grey."""

import sys

import numpy as np

NATIVE = "16L" if sys.byteorder == "little" else "16B"
BITS_PER_SAMPLE = 258  # TIFF tag


def read_deep(image):
    """uint8 [h, w, 3] of a freshly opened 16-bit Pillow image, each value round(v / 257), alpha dropped.

    Returns None for an image of 8 bits or fewer; it is not decoded then. (Compressed TIFF with separate colour planes
    is the exception to the rounding: its low bytes are out of reach.) Raises ValueError for 32-bit and floating-point
    pixels, whose range a file does not tell.
    """
    if image.mode.startswith(("I", "F")):
        return _three(_to_eight_bits(_grey(image)))
    depth = _depth(image)
    if depth == "LA;16B":
        high, low, *_ = np.moveaxis(_decode(image, "RGBA"), 2, 0)  # the four bytes of a pixel, as they lie in the file
        return _three(_to_eight_bits(256 * high.astype(np.uint32) + low))
    if depth and image.mode in ("RGB", "RGBA"):
        return _colour(image, depth)
    return None


def _grey(image):
    """Whole numbers [h, w] of an image of mode I, I;16 or F, checked to be 16-bit values."""
    values = np.array(image)
    if image.mode == "F" or not 0 <= values.min() <= values.max() <= 65535:
        raise ValueError("32-bit pixels; save it with 8 or 16 bits")
    return values


def _depth(image):
    """Byte order of 16-bit colour as Pillow calls it, '16B' or '16L'; 'LA;16B' for grey with alpha; None for 8 bits."""
    raw_modes = {_raw_mode(tile) for tile in image.tile}
    if raw_modes == {"LA;16B"}:
        return "LA;16B"
    if raw_modes <= {"R", "G", "B", "A"} and image.format == "TIFF" and 16 in image.tag_v2.get(BITS_PER_SAMPLE, ()):
        return "16L" if image.tag_v2.prefix == b"II" else "16B"  # planes, whose depth Pillow's raw mode leaves out
    depths = {raw_mode.partition(";")[2] for raw_mode in raw_modes}
    return {"16B": "16B", "16L": "16L", "16N": NATIVE}.get(depths.pop()) if len(depths) == 1 else None


def _colour(image, depth):
    """Decode twice: Pillow keeps one byte of each 16-bit value, and the byte order it is told decides which."""
    with type(image)(image.filename) as twin:
        low = _decode(twin, "{layout};" + ("16L" if depth == "16B" else "16B"))
    high = _decode(image, "{layout};" + depth)
    return _to_eight_bits(256 * high[..., :3].astype(np.uint32) + low[..., :3])


def _raw_mode(tile):
    """How Pillow is to unpack the bytes of a tile, e.g. 'RGB;16B'; '' where a codec decides by itself."""
    raw_mode = tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0]
    return raw_mode if isinstance(raw_mode, str) else ""


def _decode(image, raw_mode):
    """Decode as if the file had `raw_mode`, in which {layout} stands for the file's own. uint8 [h, w, channels]."""
    tiles = []
    for tile in image.tile:
        mode = raw_mode.format(layout=_raw_mode(tile).partition(";")[0])
        tiles.append(tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:])))
    image.tile = tiles
    return np.array(image)


def _to_eight_bits(values):
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _three(grey):
    return np.repeat(grey[..., None], 3, axis=2)
