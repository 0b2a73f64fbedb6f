"""PAMS: a parameterised max scale (Li et al., "PAMS: Quantized Super-Resolution via Parameterized Max Scale", ECCV
2020, arXiv 2011.04212).

    y = round(clip(x, -a, a) * Q / a) * a / Q,   Q = 2**(k-1) - 1,   a trained

with dy/da = 1 where x >= a, -1 where x < -a, else 0. Weights are quantized likewise with a = max|w|.
"""

import torch
from torch import Tensor

from quant.methods.clipped import ScaleQuantizer

DECAY = 0.9997


class PamsQuantizer(ScaleQuantizer):
    """A symmetric range whose half width is trained; it starts at a moving mean of max|x| over calibration.

    The moving mean is the paper's, decay 0.9997, corrected for having begun at zero.
    """

    always_signed = True

    def start(self, lows: Tensor, highs: Tensor) -> None:
        """alpha becomes the moving mean of the batches' largest |x|."""
        ages = torch.arange(len(highs) - 1, -1, -1, device=highs.device)
        shares = DECAY**ages
        self.alpha.data.copy_((shares * torch.maximum(highs, -lows)).sum() / shares.sum())
