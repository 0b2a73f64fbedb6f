"""How a picture goes into a network and comes out: value range, colours, grey, transparency, colour profile.

A network with one colour works on luma, 16..235 in 8 bits, as MATLAB's rgb2ycbcr gives it. A grey picture goes in as
its luma and comes out in its own full range; of a colour picture the network enlarges the luma, bicubic the chroma.
"""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.images import DEEP, MAX_PIXELS, decoded, rgb, write_png
from data.imresize import imresize
from metrics.functional import LUMA_OFFSET, LUMA_WEIGHTS

log = logging.getLogger(__name__)

GREY_BANDS = (("1",), ("L",), ("L", "A"), ("L", "a"))
RANGE = 219  # of luma in 8 bits
TO_YCBCR = np.array([LUMA_WEIGHTS, (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214)]) / 255  # ITU-R BT.601
TO_GREY = TO_YCBCR[0] * 255 / RANGE
PROFILE_SPACES = {b"GRAY": True, b"RGB ": False}  # what an ICC profile says at byte 16: whether it is for grey


@dataclass(frozen=True)
class Picture:
    """A picture in 8 bits. colours: uint8 [h, w, 3]; grey: all three are equal, and the file has one channel.

    alpha: uint8 [h, w], 0 where transparent, None for opaque ones. icc_profile: the file's bytes, or None.
    """

    colours: np.ndarray
    grey: bool = False
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None

    def values(self, *, rgb_range: float, n_colors: int) -> torch.Tensor:
        """The network's input, float32 [1, n_colors, h, w] in 0..rgb_range."""
        return to_values(to_planes(self.colours), rgb_range=rgb_range, n_colors=n_colors)[None]

    def enlarged(self, sr: torch.Tensor, *, scale: int) -> "Picture":
        """This picture as a network has enlarged it. sr: [n_colors, s*h, s*w] in 0..255, float32 or uint8."""
        planes = sr.permute(1, 2, 0).cpu().numpy()
        if planes.shape[2] == 3:
            colours = _rounded(planes @ TO_GREY)[..., None] if self.grey else _rounded(planes)
        elif self.grey:
            colours = grey_of_luma(planes)
        else:
            colours = self._with_chroma(planes, scale)
        alpha = None if self.alpha is None else imresize(self.alpha, scale)
        return Picture(np.broadcast_to(colours, (*colours.shape[:2], 3)), self.grey, alpha, self.icc_profile)

    def _with_chroma(self, luma, scale):
        """uint8 [H, W, 3] of the luma, [H, W, 1], and the chroma of this picture, enlarged by bicubic."""
        chroma = imresize(self.colours.astype(np.float64) @ TO_YCBCR[1:].T, scale)
        ycbcr = np.concatenate([luma.astype(np.float64) - LUMA_OFFSET, chroma], axis=2)
        return _rounded(ycbcr @ np.linalg.inv(TO_YCBCR).T)

    def write(self, path: str | Path, *, maker: str | None = None) -> None:
        """Write a PNG file: grey or RGB, with alpha where there is one. Raises UserError."""
        pixels = self.colours[..., 0] if self.grey else self.colours
        pixels = pixels if self.alpha is None else np.dstack([pixels, self.alpha])
        write_png(path, pixels, icc_profile=self.icc_profile, maker=maker)


def to_planes(image: np.ndarray) -> torch.Tensor:
    """uint8 [h, w, 3], an array, -> uint8 [3, h, w], a tensor of its own memory."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def to_values(planes: torch.Tensor, *, rgb_range: float = 255, n_colors: int = 3,
              pinned: bool = False) -> torch.Tensor:
    """uint8 [..., 3, h, w] -> float32 [..., 3, h, w] in 0..rgb_range, in page-locked memory if `pinned`.

    With n_colors 1 it is [..., 1, h, w], the luma, of which 16..235 in 255 are used.
    """
    values = torch.empty(planes.shape, dtype=torch.float32, pin_memory=pinned).copy_(planes)
    if n_colors == 1:
        values = (values * (torch.tensor(LUMA_WEIGHTS).view(3, 1, 1) / 255)).sum(dim=-3, keepdim=True) + LUMA_OFFSET
        values = values.pin_memory() if pinned else values
    return values if rgb_range == 255 else values.mul_(rgb_range / 255)


def picture_of(sr: torch.Tensor) -> Picture:
    """A network's output, float32 [n_colors, h, w] in 0..255, as a picture; luma becomes grey in its full range."""
    planes = sr.permute(1, 2, 0).cpu().numpy()
    grey = planes.shape[2] == 1
    colours = grey_of_luma(planes) if grey else _rounded(planes)
    return Picture(np.broadcast_to(colours, (*colours.shape[:2], 3)), grey)


def read_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file, upright. Raises UserError as `data.images.read_image`, whose colours these are."""
    with decoded(path, max_pixels=max_pixels) as image:
        grey = image.getbands() in GREY_BANDS
        alpha = np.array(image.convert("RGBA").getchannel("A")) if image.has_transparency_data else None
        profile = image.info.get("icc_profile") or None
        with contextlib.suppress(Exception):  # counting the frames of a broken animation harms no first frame
            if (count := getattr(image, "n_frames", 1)) > 1:
                log.info("%s: the first of its %d pictures is taken", path, count)
        if image.info[DEEP]:
            log.info("%s: has 16 bits a channel, 8 are used", path)
        if profile and PROFILE_SPACES.get(profile[16:20]) is not grey:
            log.info("%s: its colour profile is for %s, left out", path, profile[16:20].decode(errors="replace"))
            profile = None
        return Picture(np.array(rgb(image)), grey, alpha, profile)


def grey_of_luma(luma: np.ndarray) -> np.ndarray:
    """Luma, 16..235, to grey, uint8 0..255, of the same shape."""
    return _rounded((luma.astype(np.float64) - LUMA_OFFSET) * (255 / RANGE))


def _rounded(values):
    return values if values.dtype == np.uint8 else np.clip(np.rint(values), 0, 255).astype(np.uint8)
