import numpy as np
import pytest
import torch
from plain_rounding import rounded_weight
from torch.nn import functional as F

from quant.deploy.lowering.layout import MAX_WEIGHT_LEVEL, Layout, compensated_weight


def real(weight):
    return torch.from_numpy(weight.levels * weight.step[:, None, None, None])


@pytest.fixture
def layer():
    """(weight, inputs) of a convolution whose input channels vary together, as those of images do."""
    torch.manual_seed(0)
    common = F.avg_pool2d(torch.randn(1, 1, 68, 68), 5, stride=1)
    inputs = (common * torch.rand(1, 8, 1, 1) + 0.1 * torch.randn(1, 8, 64, 64)).relu().double()
    return torch.randn(6, 8, 3, 3).double(), inputs


def test_compensated_rounding_keeps_the_output(layer):
    weight, inputs = layer
    windows = F.unfold(inputs, 3, padding=1)[0].T
    made = compensated_weight(weight.numpy(), windows.T @ windows / len(windows))
    expected = F.conv2d(inputs, weight, padding=1)
    errors = [(F.conv2d(inputs, real(each), padding=1) - expected).square().mean().sqrt()
              for each in (made, rounded_weight(weight.numpy()))]
    assert errors[0] < 0.75 * errors[1]
    assert (real(made) - weight).abs().max() < 4 * (real(rounded_weight(weight.numpy())) - weight).abs().max()


def test_channels_that_come_divided(layer):
    weight, inputs = layer
    windows = F.unfold(inputs, 3, padding=1)[0].T
    factors = np.geomspace(0.5, 2, 8)
    made = compensated_weight(weight.numpy(), windows.T @ windows / len(windows), Layout.of(factors, np.ones(8, int)))
    expected = F.conv2d(inputs, weight, padding=1)
    found = F.conv2d(inputs / torch.from_numpy(factors)[:, None, None], real(made), padding=1)
    assert (found - expected).square().mean() < 1e-2 * expected.square().mean()


def test_levels_fit(layer):
    weight, inputs = layer
    for made in (rounded_weight(weight.numpy()), compensated_weight(weight.numpy(), torch.eye(72).double())):
        assert np.abs(made.levels).max() == MAX_WEIGHT_LEVEL == 64
        assert (np.abs(made.levels).max((1, 2, 3)) == MAX_WEIGHT_LEVEL).all()  # every output channel uses its grid


def test_weights_on_the_grid_stay(layer):
    weight = rounded_weight(layer[0].numpy())
    again = compensated_weight(real(weight).numpy(), torch.eye(72).double())
    assert np.array_equal(again.levels, weight.levels)


def test_a_channel_of_zeros():
    made = compensated_weight(np.zeros((2, 1, 3, 3)), torch.eye(9).double())
    assert not made.levels.any() and np.isfinite(made.step).all()


def test_an_input_repeated_makes_the_weight_finer(layer):
    weight, inputs = layer
    expected = F.conv2d(inputs, weight, padding=1)

    def error(copies):
        made = rounded_weight(weight.numpy(), Layout.repeated(8, copies))
        assert np.abs(made.levels).max() == MAX_WEIGHT_LEVEL
        return (F.conv2d(inputs.repeat(1, copies, 1, 1), real(made), padding=1) - expected).square().mean().sqrt()

    assert error(4) < 0.4 * error(1)
