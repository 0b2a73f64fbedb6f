import pytest
import torch
from torch.nn import functional as F

from quant.deploy.lowering.rounding import fold_shuffle, shuffle_order


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


def test_shuffle_order():
    x = torch.arange(2 * 9).view(1, 18, 1, 1)
    expected = F.pixel_shuffle(x.float(), 3)
    ordered = x[0, shuffle_order(2, 3), 0, 0].view(3, 3, 2).permute(2, 0, 1)
    assert torch.equal(ordered.float(), expected[0])
