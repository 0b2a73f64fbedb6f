import numpy as np
import pytest
import torch
from torch.nn import functional as F

from quant.deploy.lowering.layout import Layout, fold_shuffle


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_folded_convolution_equals_shuffle_and_convolution(factor, size):
    torch.manual_seed(0)
    weight = torch.randn(3, 4, size, size, dtype=torch.float64)
    x = torch.randn(1, 4 * factor**2, 6, 5, dtype=torch.float64)
    expected = F.conv2d(F.pixel_shuffle(x, factor), weight, padding=size // 2)
    folded = torch.from_numpy(fold_shuffle(weight.numpy(), factor))
    y = F.conv2d(x, folded, padding=folded.shape[-1] // 2)  # channels: row, column, colour
    found = y.view(factor, factor, 3, 6, 5).permute(2, 3, 0, 4, 1).reshape(1, 3, 6 * factor, 5 * factor)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("woven", [False, True])
def test_a_layout_before_a_pixel_shuffle(woven):
    layout = Layout.of(np.array([2.0, 3.0]), np.array([1, 2]))
    x = torch.arange(2 * 9).view(1, 18, 1, 1).float()
    before = layout.before_shuffle(3, woven=woven)
    places = x[0, before.channels, 0, 0]
    found = places.view(3, 3, 3).permute(2, 0, 1) if woven else F.pixel_shuffle(places.view(1, 27, 1, 1), 3)[0]
    assert torch.equal(found, F.pixel_shuffle(x, 3)[0, [0, 1, 1]])
    assert before.copies.tolist() == [1] * 9 + [2] * 9
    assert before.factors.tolist() == [2] * 9 + [3] * 9
