import pytest
import torch
from torch import nn

from model import parallel
from model.norm import BatchNorm2d


@pytest.fixture
def pair():
    """Our normalisation and torch's with the same weights."""
    torch.manual_seed(0)
    own, torchs = BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        own.weight.copy_(torch.rand(3) + 0.5)
        own.bias.copy_(torch.rand(3))
    torchs.load_state_dict(own.state_dict())
    return own, torchs


@pytest.fixture
def as_two_processes(monkeypatch):
    """What two processes with the same slice would see: the batch twice."""
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "all_gather", lambda x: torch.cat((x, x)))
    monkeypatch.setattr(parallel, "all_reduce_mean", lambda x: x)


def run(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum().backward()
    return y.detach(), x.grad, module.weight.grad, module.bias.grad


def test_one_process_is_torchs_to_the_bit(pair):
    x = torch.randn(4, 3, 5, 6)
    for own, expected in zip(*(run(module, x) for module in pair), strict=True):
        assert torch.equal(own, expected)
    for own, expected in zip(*(module.state_dict().values() for module in pair), strict=True):
        assert torch.equal(own, expected)


def test_shared_batch_has_torchs_values_and_gradients(pair, as_two_processes):
    x = torch.randn(4, 3, 5, 6) * 3 + 100
    own, torchs = pair
    for value, expected in zip(run(own, x), run(torchs, x), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)  # float32 sums of values around 100
    torch.testing.assert_close(own.running_mean, torchs.running_mean)
    correction = (2 * 120 - 1) / (2 * 120) * 120 / 119  # twice as many values
    torch.testing.assert_close((own.running_var - 0.9) * correction, torchs.running_var - 0.9)
    assert own.num_batches_tracked == 1


def test_evaluation_uses_the_running_statistics(pair, as_two_processes):
    own, torchs = pair
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(own.eval()(x), torchs.eval()(x))


def test_low_precision_keeps_its_dtype(pair, as_two_processes):
    own, torchs = pair
    x = torch.randn(4, 3, 5, 6)
    y = own(x.bfloat16())
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), torchs(x), rtol=0.02, atol=0.02)  # bfloat16 has 8 significant bits
