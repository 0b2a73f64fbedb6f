"""From uint8 images to the tensors a network sees: aligned crops, flips and turns, value range and colours."""

import numpy as np
import torch

LUMA = (65.481, 128.553, 24.966)  # of ITU-R BT.601, as MATLAB's rgb2ycbcr has them: 16..235 for 8-bit colours


def crop_pair(lr, hr, *, scale, lr_patch, place):
    """The same random part of both images.

    lr: [h, w, 3], at least lr_patch high and wide. hr: [H, W, 3], at least scale times as large, top left corners
    together. place: two random whole numbers, for row and column. Returns views, lr_patch and scale * lr_patch square.
    """
    top, left = (int(number) % (length - lr_patch + 1) for number, length in zip(place, lr.shape[:2], strict=True))
    size = scale * lr_patch
    hr_top, hr_left = scale * top, scale * left
    return lr[top : top + lr_patch, left : left + lr_patch], hr[hr_top : hr_top + size, hr_left : hr_left + size]


def augment(image, turns):
    """Flip left-right, flip upside down, transpose: one for each of the three lowest bits of `turns`. Gives a view."""
    if turns & 1:
        image = image[:, ::-1]
    if turns & 2:
        image = image[::-1]
    if turns & 4:
        image = image.transpose(1, 0, 2)
    return image


def to_tensor(image, *, rgb_range=255, n_colors=3):
    """uint8 [h, w, 3] -> float32 [3, h, w] in 0..rgb_range; with n_colors 1 its luma [1, h, w] in 16..235 of 255."""
    tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")).float()
    if n_colors == 1:
        weights = torch.tensor(LUMA).view(3, 1, 1) / 255
        tensor = (tensor * weights).sum(dim=0, keepdim=True) + 16
    return tensor if rgb_range == 255 else tensor.mul_(rgb_range / 255)
