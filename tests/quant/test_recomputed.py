"""Quantized operands of convolutions are not kept for backward where it can recompute them."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from quant.functional import fake_quantize, fake_quantize_parts, recomputed
from quant.weight import QuantConv2d


def feature(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.fixture
def leaves():
    """x, its bounds, a weight and its bounds."""
    values = feature(2, 3, 7, 5), torch.tensor([-2.0]), torch.tensor([3.0]), feature(4, 3, 3, 3), torch.tensor([-1.0])
    return [value.requires_grad_() for value in (*values, torch.tensor([1.0]))]


def convolved(x, lower, upper, weight, weight_lower, weight_upper, *, context):
    """A convolution within `context` of (y, weight), and weak references to these."""
    y, quantized = fake_quantize(x, lower, upper, 4), fake_quantize(weight, weight_lower, weight_upper, 4)
    with context(y, quantized):
        return F.conv2d(y, quantized, padding=1), weakref.ref(y), weakref.ref(quantized)


class Nothing:
    """A context that changes nothing."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def test_operands_are_freed_and_gradients_stay_the_same(leaves):
    kept, *references = convolved(*leaves, context=Nothing)
    assert all(reference() is not None for reference in references)
    lean, *references = convolved(*leaves, context=recomputed)
    assert all(reference() is None for reference in references)
    grad = feature(*kept.shape, seed=1)
    for one, other in zip(*(torch.autograd.grad(result, leaves, grad) for result in (kept, lean)), strict=True):
        assert torch.equal(one, other)


def test_what_is_no_quantizers_result_is_kept(leaves):
    x, *_, weight, _, _ = leaves
    with recomputed(x, weight):
        result = F.conv2d(x, weight)
    torch.autograd.grad(result.sum(), (x, weight))


def test_a_view_of_the_result_is_kept_as_it_is(leaves):
    x, lower, upper = leaves[:3]
    y = fake_quantize(x, lower, upper, 4)
    with recomputed(y):
        result = y[:1].square().sum()
    grad, = torch.autograd.grad(result, y)
    assert torch.equal(grad[:1], 2 * y[:1])


def test_a_result_made_of_parts(leaves):
    x, lower, upper = leaves[:3]
    y = fake_quantize_parts((x, -x), lower, upper, 4)
    with recomputed(y):
        result = y.square().sum()
    grad, = torch.autograd.grad(result, y)
    assert torch.equal(grad, 2 * y)


def test_changed_input_is_noticed(leaves):
    """Autograd's own guard works: an input changed in place between forward and backward is an error."""
    result, *_ = convolved(*leaves, context=recomputed)
    with torch.no_grad():
        leaves[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def conv(**settings):
    return QuantConv2d(nn.Conv2d(3, 4, 3, padding=1), 4, "percentile", **settings)


@pytest.mark.parametrize("keeps_operands", [False, True])
def test_convolutions_keep_what_they_are_told_to(leaves, keeps_operands):
    y = fake_quantize(*leaves[:3], 4)
    result, reference = conv(keeps_operands=keeps_operands)(y), weakref.ref(y)
    del y
    assert (reference() is not None) == keeps_operands
    result.sum().backward()


@pytest.mark.slow
def test_compiled_whole(leaves):
    module = conv()
    compiled = torch.compile(lambda x: module(fake_quantize(x, *leaves[1:3], 4)), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(leaves[0]), module(fake_quantize(*leaves[:3], 4)), rtol=0, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["edsr", "srresnet", "rdn"])
def test_gradient_checkpointing_gives_the_same_gradients(small_network, name, reentrant):
    network = small_network(name).train()
    x = (feature(1, 3, 8, 8) * 40).requires_grad_()

    def gradients(run):
        network.zero_grad()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
        run().square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    expected = gradients(lambda: network(x))
    found = gradients(lambda: checkpoint(network, x, use_reentrant=reentrant))
    assert len(expected) == len(found) > 10
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_result_that_was_changed_in_place_is_kept(leaves):
    def weight_gradient(change):
        x, lower, upper, weight, *weight_bounds = leaves
        y = change(fake_quantize(x, lower, upper, 4))
        quantized = fake_quantize(weight, *weight_bounds, 4)
        with recomputed(y, quantized):
            return torch.autograd.grad(F.conv2d(y, quantized, padding=1).square().sum(), weight)[0]

    def in_place(y):
        with torch.no_grad():
            return y.add_(0.3)

    assert torch.equal(weight_gradient(in_place), weight_gradient(lambda y: y + 0.3))
    assert not torch.equal(weight_gradient(in_place), weight_gradient(lambda y: y))
