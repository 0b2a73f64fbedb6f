"""The compared quantizers: their equations at values worked out by hand, their starts, their gradients."""

import pytest
import torch

from quant.methods import METHODS
from quant.methods.compared import DECAY, MOMENTUM, DoReFaQuantizer, MovingRangeQuantizer, PamsQuantizer, ScaleQuantizer
from quant.phase import Phase
from quant.weight import quantize_dorefa

COMPARED = {name: method for name, method in METHODS.items() if name != "ddtb"}


def started(kind, k_bits, *, high, low):
    """A quantizer that has seen one calibration batch with these extremes."""
    return calibrated(kind(k_bits), torch.tensor([low, high]).view(1, 1, 1, 2))


def calibrated(quantizer, *batches):
    """The quantizer after a calibration with these batches."""
    quantizer.phase = Phase.CALIBRATE
    for batch in batches:
        quantizer(batch)
    quantizer.end_calibration()
    quantizer.phase = Phase.STATIC
    return quantizer


@pytest.mark.parametrize("kind", [PamsQuantizer, ScaleQuantizer, DoReFaQuantizer])
def test_signed_features_get_odd_levels_around_zero(kind):
    quantizer = started(kind, 3, high=3.0, low=-1.0)
    x = torch.tensor([[[[-9.0, -3.0, -0.4, 0.4, 0.6, 2.4, 2.6, 9.0]]]])
    assert quantizer(x).flatten().tolist() == [-3, -3, 0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("kind", [ScaleQuantizer, DoReFaQuantizer])
def test_features_never_negative_get_all_levels_above_zero(kind):
    quantizer = started(kind, 2, high=3.0, low=0.0)
    assert quantizer(torch.tensor([[[[-1.0, 0.4, 0.6, 1.6, 7.0]]]])).flatten().tolist() == [0, 0, 1, 2, 3]


def test_pams_is_symmetric_whatever_the_feature():
    quantizer = started(PamsQuantizer, 2, high=3.0, low=0.0)
    assert quantizer(torch.tensor([[[[-3.0, 1.0, 2.0]]]])).flatten().tolist() == [-3, 0, 3]


@pytest.mark.parametrize("kind", [PamsQuantizer, ScaleQuantizer])
def test_alpha_learns_from_what_is_clipped_alone(kind):
    quantizer = started(kind, 3, high=3.0, low=-3.0)
    x = torch.tensor([[[[-5.0, -1.2, 0.7, 3.0, 4.0]]]], requires_grad=True)
    quantizer(x).backward(torch.tensor([[[[10.0, 100.0, 1000.0, 1.0, 2.0]]]]))
    assert x.grad.flatten().tolist() == [0, 100, 1000, 0, 0]
    assert quantizer.alpha.grad.tolist() == [1 + 2 - 10]


def test_unsigned_pact_learns_from_the_upper_side_alone():
    quantizer = started(ScaleQuantizer, 3, high=3.0, low=0.0)
    x = torch.tensor([[[[-5.0, 1.0, 4.0]]]], requires_grad=True)
    quantizer(x).backward(torch.tensor([[[[10.0, 100.0, 2.0]]]]))
    assert x.grad.flatten().tolist() == [0, 100, 0]
    assert quantizer.alpha.grad.tolist() == [2]


def test_dorefa_trains_nothing():
    assert not list(DoReFaQuantizer(4).parameters())


def test_pams_starts_at_the_moving_mean_of_calibration():
    one, two = torch.tensor([[-2.0, 1.0]]).view(1, 1, 1, 2), torch.tensor([[-3.0, 1.0], [0.0, 7.0]]).view(2, 1, 1, 2)
    quantizer = calibrated(PamsQuantizer(4), one, two, one)
    mean = (2 * DECAY**2 + (3 + 7) / 2 * DECAY + 2) / (DECAY**2 + DECAY + 1)  # of images, not the batch's largest
    assert quantizer.alpha.item() == pytest.approx(mean, rel=1e-6)
    assert quantizer.observations == [] and quantizer.bounds_set
    uncalibrated = PamsQuantizer(4).train()
    uncalibrated(two)
    assert uncalibrated.alpha.item() == 5


def test_moving_range_follows_training_and_stands_still_in_evaluation():
    quantizer = started(MovingRangeQuantizer, 2, high=3.0, low=-1.0)
    x = torch.tensor([[[[-2.0, 8.0]]]])
    quantizer(x)
    lower, upper = -1 * MOMENTUM - 2 * (1 - MOMENTUM), 3 * MOMENTUM + 8 * (1 - MOMENTUM)
    assert [quantizer.lower.item(), quantizer.upper.item()] == pytest.approx([lower, upper], rel=1e-6)
    quantizer.eval()(x)
    assert [quantizer.lower.item(), quantizer.upper.item()] == pytest.approx([lower, upper], rel=1e-6)


def test_moving_range_keeps_zero_a_level():
    quantizer = started(MovingRangeQuantizer, 2, high=5.0, low=2.0).eval()
    assert quantizer(torch.tensor([[[[0.0, 5.0, 1.0]]]])).flatten().tolist()[0] == 0


def test_moving_range_may_go_back_after_it_moved():
    quantizer = started(MovingRangeQuantizer, 2, high=3.0, low=-1.0)
    x = torch.tensor([[[[2.5, 0.1]]]], requires_grad=True)
    first = quantizer(x)
    quantizer(torch.full_like(x, 100.0))
    first.sum().backward()
    assert x.grad.flatten().tolist() == [1, 1]


@pytest.mark.parametrize("method", COMPARED.values(), ids=COMPARED)
def test_without_calibration_the_first_training_batch_starts_it(method):
    quantizer = method.activation(4)
    x = torch.linspace(-2, 6, 64).view(1, 4, 4, 4)
    quantizer.eval()(x)
    assert not quantizer.initialised
    quantizer.train()(x)
    assert quantizer.initialised
    lower, upper = (bound.item() for bound in quantizer.static_bounds())
    nudged = 8 / 15 / 2  # half a step: zero is one of the levels
    expected = (-2, 6, nudged) if isinstance(quantizer, MovingRangeQuantizer) else (-6, 6, 1e-6)
    assert (lower, upper) == pytest.approx(expected[:2], abs=expected[2])


@pytest.mark.parametrize("method", COMPARED.values(), ids=COMPARED)
@pytest.mark.parametrize("k_bits", [2, 4, 8])
def test_many_bits_are_close_and_few_levels_are_few(method, k_bits):
    quantizer = started(method.activation, k_bits, high=1.0, low=-1.0)
    x = torch.linspace(-1, 1, 2001).view(1, 1, 1, -1)
    y = quantizer(x)
    assert len(y.unique()) <= 2**k_bits
    assert (y - x).abs().max() <= 1 / (2 ** (k_bits - 1) - 1)


@pytest.mark.parametrize("method", COMPARED.values(), ids=COMPARED)
def test_a_constant_feature_gives_no_nan(method):
    quantizer = method.activation(2)
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("method", COMPARED.values(), ids=COMPARED)
def test_calibration_passes_features_and_records_them(method):
    quantizer = method.activation(2)
    quantizer.phase = Phase.CALIBRATE
    x = torch.tensor([[[[-1.5, 2.5]]]])
    assert torch.equal(quantizer(x), x)
    assert [list(map(float, record)) for record in quantizer.observations] == [[-1.5, 2.5]]


def test_dorefa_weights():
    weight = torch.tensor([0.0, 0.1, -0.3, 0.3], requires_grad=True)
    y = quantize_dorefa(weight, 2)
    largest = torch.tanh(torch.tensor(0.3)).item()
    assert y.tolist() == pytest.approx([largest / 3, largest / 3, -largest, largest], rel=1e-6)  # 1.5 rounds to 2
    y.sum().backward()
    assert torch.equal(weight.grad, 1 - torch.tanh(weight.detach()).square())
