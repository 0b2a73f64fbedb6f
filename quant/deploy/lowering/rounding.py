"""Float weights to int8 for layers that were not trained for it."""

import numpy as np
import torch
from torch import Tensor

from quant.deploy.lowering.levels import PAIR_SAFE_PRODUCT, UINT8_MAX, IntegerWeight

# with uint8 features, so many levels a side are what processors without VNNI add without saturating
LEVELS = PAIR_SAFE_PRODUCT // UINT8_MAX
DAMPING = 0.01


def rounded_weight(weight: np.ndarray, copies: int = 1) -> IntegerWeight:
    """A weight [O, I, kh, kw] on each output channel's own grid of -64..64, each value rounded by itself.

    With `copies` > 1 on a grid as many times finer, for an input that is repeated so often: [O, copies * I, kh, kw].
    """
    step = _steps(weight) / copies
    levels = np.rint(weight / step[:, None, None, None]).astype(np.int64)
    return IntegerWeight(np.concatenate([(levels + i) // copies for i in range(copies)], 1), step)


def compensated_weight(weight: np.ndarray, covariance: Tensor) -> IntegerWeight:
    """The same grid, rounded so that each value makes up for the errors of those before it, as GPTQ does.

    covariance: float64 tensor [I*kh*kw, I*kh*kw], the mean of w w^T over the windows w that the convolution sees. What
    is small then is not the weight's error but the output's. Values whose inputs are large go first.
    """
    step = torch.from_numpy(_steps(weight))
    rest = torch.from_numpy(weight.astype(np.float64)).flatten(1)
    order = covariance.diagonal().argsort(descending=True)
    rest, covariance = rest[:, order].clone(), covariance[order][:, order]
    damped = covariance + DAMPING * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    levels = torch.zeros_like(rest)
    for i in range(rest.shape[1]):
        levels[:, i] = torch.round(rest[:, i] / step).clamp_(-LEVELS, LEVELS)
        error = (rest[:, i] - levels[:, i] * step) / spread[i, i]
        rest[:, i:] -= error.unsqueeze(1) * spread[i, i:]
    original = torch.empty_like(levels)
    original[:, order] = levels
    return IntegerWeight(original.view(weight.shape).numpy().astype(np.int64), step.numpy())


def _steps(weight):
    return np.maximum(np.abs(weight.astype(np.float64)).max((1, 2, 3)), 1e-12) / LEVELS
