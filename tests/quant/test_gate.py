import pytest
import torch
from torch.nn import functional as F

from quant.functional import fake_quantize
from quant.methods.ddtb import Gate
from quant.weight import quantize_symmetric


def feature(n=3, seed=0):
    means = torch.arange(float(n)).view(n, 1, 1, 1)
    return means + torch.randn(n, 6, 5, 7, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gate():
    torch.manual_seed(0)
    gate = Gate(6)
    torch.nn.init.uniform_(gate.norm.running_mean, -0.5, 0.5)
    torch.nn.init.uniform_(gate.norm.running_var, 0.5, 1.5)
    torch.nn.init.uniform_(gate.norm.bias, -0.5, 0.5)
    return gate


def by_extremes(x):
    return fake_quantize(x, x.min(), x.max(), 2)


def test_training_as_published(gate):
    x = feature()
    hidden = F.conv2d(by_extremes(F.adaptive_avg_pool2d(x, 1)), quantize_symmetric(gate.reduce.weight, 2))
    hidden = F.relu(F.batch_norm(hidden, None, None, gate.norm.weight, gate.norm.bias, training=True))
    expected = F.conv2d(by_extremes(hidden), quantize_symmetric(gate.expand.weight, 2))
    assert expected.shape == (3, 2, 1, 1)
    assert torch.equal(gate(x), expected)


def test_only_the_last_convolution_learns_and_statistics_move(gate):
    x, before = feature().requires_grad_(), gate.norm.running_mean.clone()
    gate(x).sum().backward()
    assert {name for name, parameter in gate.named_parameters() if parameter.grad is not None} == {"expand.weight"}
    assert x.grad is None
    assert not torch.equal(gate.norm.running_mean, before)


def test_in_test_mode_an_image_does_not_know_its_neighbours(gate):
    gate.eval().double()  # in double precision torch convolves image by image
    x = feature().double()
    assert torch.equal(gate(x), torch.cat([gate(image[None]) for image in x]))


def test_in_training_the_batch_shares_its_extremes(gate):
    gate.norm.eval()
    x = feature()
    assert not torch.equal(gate(x), torch.cat([gate(image[None]) for image in x]))


def test_a_batch_of_one_trains_by_the_running_statistics(gate):
    x = feature(1)
    mean, var = gate.norm.running_mean.clone(), gate.norm.running_var.clone()
    logits = gate(x)
    logits.sum().backward()
    assert torch.isfinite(gate.expand.weight.grad).all()
    assert torch.equal(gate.norm.running_mean, mean) and torch.equal(gate.norm.running_var, var)
    assert torch.equal(logits, gate.eval()(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [0.0, 3.0, -1e6])
def test_a_feature_without_contrast_gives_finite_logits(gate, training, value):
    assert torch.isfinite(gate.train(training)(torch.full((2, 6, 4, 4), value))).all()
