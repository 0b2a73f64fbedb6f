"""The sum before the upsampler: two 8-bit features on grids of their own, rounded once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quant.deploy.lowering.image_model import image_model
from quant.deploy.lowering.levels import IntegerWeight
from quant.deploy.lowering.qdq import Qdq
from quant.deploy.lowering.qlinear import QLinear
from quant.deploy.onnx_backend import OnnxRuntimeSession

RANGES = [((-0.3, 0.9), (-2.0, 1.1)), ((-5.0, 5.0), (-0.2, 0.1)), ((0.0, 1.0), (0.0, 1.0))]


@pytest.mark.parametrize("kind", [QLinear, Qdq])
@pytest.mark.parametrize(("first", "second"), RANGES)
def test_a_sum_rounds_its_terms_once_and_itself_once(kind, first, second):
    """Both terms are 1x1 convolutions of one image, so real arithmetic gives what each code may be off by."""
    graph = kind(nn.Identity())
    image = graph.image(graph.affine_grid(0.0, 255.0), 3)
    grids = [*graph.sum_grids(first, second), graph.affine_grid(*map(sum, zip(first, second, strict=True)))]
    factors = [min(max(-low, high), high or -low) / 255 for low, high in (first, second)]
    bias = np.zeros(3)
    weights = [IntegerWeight(np.eye(3, dtype=np.int64)[:, :, None, None], factor) for factor in factors]
    other = graph.code_conv(image, weights[1], bias, grids[1])
    offset = np.array([0.0, 0.25, -0.25]) * grids[2].step
    total = graph.conv_sum(image, weights[0], bias, other, grids, offset)
    assert total.grid == grids[2]
    model = image_model(graph, graph.dequantize(total), channels=3, scale=1, per_image=False, metadata={})
    lr = torch.arange(256.0).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    (found,) = OnnxRuntimeSession(Path("x.onnx"), 1, model.SerializeToString()).run(["sr"], {"lr": lr.numpy()})
    expected = lr.numpy() * sum(factors) + offset.reshape(1, 3, 1, 1)
    inside = (expected > grids[2].bounds[0]) & (expected < grids[2].bounds[1])
    assert inside.mean() > 0.9
    error = np.abs(found - expected)[inside]
    terms = sum(grid.step for grid in (grids[:2] if kind is QLinear else grids[1:2]))
    assert error.max() <= (terms + grids[2].step) / 2 * 1.02
    assert np.unique(found[:, 0]).size > 100


def test_steps_are_whole_multiples_of_one():
    for terms in RANGES:
        steps = [grid.step for grid in QLinear(nn.Identity()).sum_grids(*terms)]
        unit = max(steps) / 64
        for step, (low, high) in zip(steps, terms, strict=True):
            assert abs(step / unit - round(step / unit)) < 1e-9 and step * 255 >= (high - low) * (1 - 1e-9)
