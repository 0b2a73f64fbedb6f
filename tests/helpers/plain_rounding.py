"""Weights rounded value by value."""

import numpy as np
import torch

from quant.deploy.lowering.layout import Layout, compensated_weight
from quant.deploy.lowering.levels import IntegerWeight


def rounded_weight(weight: np.ndarray, reads: Layout | None = None, makes: Layout | None = None) -> IntegerWeight:
    """`compensated_weight` for inputs that have nothing to do with each other: no error is made up for."""
    return compensated_weight(weight, torch.eye(weight[0].size).double(), reads, makes)
