import numpy as np
import pytest
import torch
from plain_rounding import rounded_weight
from torch.nn import functional as F

from quant.deploy.lowering.layout import Layout
from quant.deploy.lowering.levels import IntegerWeight

COPIES = np.array([1, 3, 1, 2])


@pytest.fixture
def layout():
    return Layout.of(np.array([1.0, 0.5, 2.0, 4.0]), COPIES)


def real(weight):
    return torch.from_numpy(weight.levels * np.reshape(weight.step, (-1, 1, 1, 1)))


def test_places(layout):
    assert layout.channels.tolist() == [0, 1, 2, 3, 1, 3, 1] and layout.copy_index.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert np.array_equal(layout.copies, COPIES) and layout.factors.tolist() == [1, 0.5, 2, 4]


def test_copies_share_levels_out_and_sum_to_them(layout):
    levels = np.random.default_rng(0).integers(-200, 200, (5, 4, 3, 3))
    shared = layout.split_copies(levels)
    assert shared.shape == (5, 7, 3, 3) and np.array_equal(layout.sum_copies(shared), levels)
    assert np.ptp(shared[:, layout.channels == 1], axis=1).max() == 1


def test_the_convolution_that_makes_it_and_the_one_that_gives_it_back(layout):
    """Without rounding in between both together change nothing; the weight is on grids finer by the copies."""
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 2, 3, 3).double(), torch.randn(4).double()
    x = torch.randn(1, 2, 6, 6).double()
    fine = rounded_weight(weight.numpy(), makes=layout)
    made, offset = layout.made_by(fine, bias.numpy(), 0.1)
    assert np.abs(made.levels).max() == 64
    places = F.conv2d(x, real(made), torch.from_numpy(offset), padding=1)
    found = F.conv2d(places, real(layout.inverse()))
    torch.testing.assert_close(found, F.conv2d(x, real(fine), bias, padding=1))


def test_copies_make_the_grid_finer():
    """Three copies of a value, each on whole steps, say it to a third of one."""
    layout = Layout.of(np.ones(1), np.array([3]))
    values = np.linspace(0, 10, 31)
    _, offsets = layout.made_by(IntegerWeight(np.ones((1, 1, 1, 1), np.int64), 1.0), np.zeros(1), 1.0)
    mean = np.rint(values + offsets[:, None]).mean(0)
    assert np.abs(mean - values).max() < 1 / 6 + 1e-9 < np.abs(np.rint(values) - values).max()


def test_no_copy_lies_lower_than_another():
    """What does not go evenly is spread over the copies: an image of one colour gives all of them the same."""
    layout = Layout.of(np.ones(2), np.array([3, 1]))
    weight = rounded_weight(np.random.default_rng(0).normal(size=(2, 64, 3, 3)), makes=layout)
    made, _ = layout.made_by(weight, np.zeros(2), 1.0)
    sums = (made.levels * made.step[:, None, None, None]).sum((1, 2, 3))
    of_first = sums[layout.channels == 0]
    assert np.ptp(of_first) < 20 * made.step[0]
