"""Training samples as bytes, test images as tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from data.image_sets import ImageSet, Pair
from data.pictures import Picture, picture_of, read_picture, to_planes, to_values
from data.sampler import CROP, SampleKey, random_words
from utility import UserError

Reader = Callable[[Any], np.ndarray]  # from a file's path to its pixels, uint8 [h, w, 3]


class TrainSet:
    """Random patches of images; item SampleKey is a pure function of (seed, key), whoever asks for it.

    sources: list of (Pair, read), where read(path) gives the file's pixels, uint8 [h, w, 3].
    An item is (lr [3, p, p], hr [3, scale*p, scale*p], name): p = lr_patch, uint8 arrays, views that are best copied.
    Raises UserError when a file is broken.
    """

    def __init__(self, sources: Sequence[tuple[Pair, Reader]], *, scale: int, lr_patch: int, seed: int,
                 augmented: bool = True) -> None:
        self.sources, self.scale, self.seed, self.augmented = sources, scale, seed, augmented
        self.lr_patch, self.hr_patch = lr_patch, scale * lr_patch

    def __getitem__(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray, str]:
        pair, read = self.sources[key.image]
        *place, turns = random_words(CROP, self.seed, key.epoch, key.position, count=3)
        lr, hr = _unchanged(pair, read(pair.lr), read(pair.hr), self.scale, least=self.lr_patch)
        top, left = (int(number) % (length - self.lr_patch + 1)
                     for number, length in zip(place, lr.shape[:2], strict=True))
        turns = int(turns) if self.augmented else 0
        return (_patch(lr, top, left, self.lr_patch, turns),
                _patch(hr, self.scale * top, self.scale * left, self.hr_patch, turns), pair.name)

    def files(self) -> list[list[str | int]]:
        """[name, bytes of its files] of all images: other images, other values."""
        return [_files_of(pair) for pair, _ in self.sources]


class EvalSet:
    """Whole images of a set, in order: a sequence of (lr [n_colors, h, w], hr [n_colors, s*h, s*w] or None, name).

    Values are float32 in 0..rgb_range; HR is cut to scale times LR. name: bare, fit to be part of a file name.
    has_hr: whether there are HR images. PSNR leaves out `border` pixels on each side and is taken on luma, or on RGB
    where `luma` is False (DIV2K). An item raises UserError when its file is broken.
    """

    def __init__(self, image_set: ImageSet, read: Reader, *, scale: int, rgb_range: float = 255,
                 n_colors: int = 3) -> None:
        self.name, self.luma, self.border = image_set.name, image_set.luma, image_set.border(scale)
        self.pairs, self.has_hr = image_set.pairs, image_set.pairs[0].hr is not None
        self.read, self.scale = read, scale
        self.colours = {"rgb_range": rgb_range, "n_colors": n_colors}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, str]:
        pair = self.pairs[index]
        lr = self.read(pair.lr)
        if pair.hr is None:
            return self._values(lr), None, pair.name
        lr, hr = _unchanged(pair, lr, self.read(pair.hr), self.scale)
        height, width = (self.scale * length for length in lr.shape[:2])
        return self._values(lr), self._values(hr[:height, :width]), pair.name

    def files(self) -> list[list[str | int]]:
        """[name of the set and of the image, bytes of each of its files] of all images: other images, other values."""
        return [[self.name, *_files_of(pair)] for pair in self.pairs]

    def picture(self, index: int, sr: Tensor) -> Picture:
        """What a network has made of an item. sr: float32 [n_colors, s*h, s*w] in 0..255, not rounded.

        Where there is no original, the pictures are a user's: they keep transparency, colours and colour profile.
        """
        return picture_of(sr) if self.has_hr else read_picture(self.pairs[index].lr).enlarged(sr, scale=self.scale)

    def _values(self, image):
        return to_values(to_planes(image), **self.colours)


def _files_of(pair):
    return [pair.name, *(path.stat().st_size for path in (pair.lr, pair.hr) if path)]


def _patch(image, top, left, side, turns):
    """A square part of [h, w, 3] as [3, side, side].

    It is flipped left-right, flipped upside down, transposed: one for each of the three lowest bits of `turns`.
    """
    patch = np.array(image[top : top + side, left : left + side])  # turning a part of a large image would be slower
    if turns & 1:
        patch = patch[:, ::-1]
    if turns & 2:
        patch = patch[::-1]
    if turns & 4:
        patch = patch.transpose(1, 0, 2)
    return patch.transpose(2, 0, 1)


def _unchanged(pair, lr, hr, scale, least=1):
    """(lr, hr) where their sizes still fit, as checked before the run began. Raises UserError otherwise."""
    lacking = any(high < scale * low for high, low in zip(hr.shape[:2], lr.shape[:2], strict=True))
    if lacking or min(lr.shape[:2]) < least:
        raise UserError(f"{pair.hr} and {pair.lr}: have changed in size since the run began; restore them and go on")
    return lr, hr
