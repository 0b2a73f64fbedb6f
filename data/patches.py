"""From uint8 images to the tensors a network sees: aligned crops, flips and turns, value range and colours."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metrics.functional import LUMA_OFFSET, LUMA_WEIGHTS


def crop_pair(lr: np.ndarray, hr: np.ndarray, *, scale: int, lr_patch: int,
              place: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same random part of both images.

    lr: [h, w, 3], at least lr_patch high and wide. hr: [H, W, 3], at least scale times as large, top left corners
    together. place: two random whole numbers, for row and column. Returns copies, lr_patch and scale * lr_patch square:
    turning an image that lies together in memory is faster than turning a part of a large one.
    """
    top, left = (int(number) % (length - lr_patch + 1) for number, length in zip(place, lr.shape[:2], strict=True))
    bottom, right = top + lr_patch, left + lr_patch
    return (np.array(lr[top:bottom, left:right]),
            np.array(hr[scale * top : scale * bottom, scale * left : scale * right]))


def augment(image: np.ndarray, turns: int) -> np.ndarray:
    """Flip left-right, flip upside down, transpose: one for each of the three lowest bits of `turns`. Gives a view."""
    if turns & 1:
        image = image[:, ::-1]
    if turns & 2:
        image = image[::-1]
    if turns & 4:
        image = image.transpose(1, 0, 2)
    return image


def to_planes(image: np.ndarray) -> Tensor:
    """uint8 [h, w, 3], an array, -> uint8 [3, h, w], a tensor of its own memory."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def to_values(planes: Tensor, *, rgb_range: float = 255, n_colors: int = 3, pinned: bool = False) -> Tensor:
    """uint8 [..., 3, h, w] -> float32 [..., 3, h, w] in 0..rgb_range, in page-locked memory if `pinned`.

    With n_colors 1 it is [..., 1, h, w], the luma, of which 16..235 in 255 are used.
    """
    values = torch.empty(planes.shape, dtype=torch.float32, pin_memory=pinned).copy_(planes)
    if n_colors == 1:
        values = (values * (torch.tensor(LUMA_WEIGHTS).view(3, 1, 1) / 255)).sum(dim=-3, keepdim=True) + LUMA_OFFSET
        values = values.pin_memory() if pinned else values
    return values if rgb_range == 255 else values.mul_(rgb_range / 255)
