"""The compiled kernels against PyTorch's own operations: the same bits forward and backward."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from quant.functional import fake_quantize, fake_quantize_parts
from quant.kernels import calls as native

BITS = range(2, 9)


@pytest.fixture(scope="module", autouse=True)
def library():
    if native._library() is None:
        pytest.skip("no C++ compiler here: there are no kernels to test")


@pytest.fixture
def eager(monkeypatch):
    """Call a function in PyTorch's operations."""
    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(native, "_library", lambda: None)
            return function(*args)

    return call


def feature(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def bounds(lower=-2.0, upper=5.0):
    return torch.tensor([lower]), torch.tensor([upper])


def sample_bounds(n):
    return -torch.rand(n, 1, 1, 1) - 0.5, torch.rand(n, 1, 1, 1) + 0.5


def gradients(parts, lower, upper, k_bits):
    """The result, and the gradients of the bounds and of every part of a weighted sum of it."""
    leaves = [tensor.detach().requires_grad_() for tensor in (lower, upper, *parts)]
    y = fake_quantize_parts(tuple(leaves[2:]), leaves[0], leaves[1], k_bits)
    weights = feature(*y.shape, seed=1)
    return y.detach(), *torch.autograd.grad(y, leaves, weights)


def assert_alike(eager, parts, lower, upper, k_bits):
    assert native.quantize(parts, lower, upper, k_bits) is not None, "the kernel was not used"
    ours, theirs = gradients(parts, lower, upper, k_bits), eager(gradients, parts, lower, upper, k_bits)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("k_bits", BITS)
def test_every_bit_width(eager, k_bits):
    assert_alike(eager, [feature(2, 5, 7, 9)], *bounds(), k_bits)


@pytest.mark.parametrize("shape", [(1,), (3,), (17,), (2, 3, 1, 1), (1, 1, 33, 31), (2, 64, 13, 11), (8193,)])
def test_odd_sizes(eager, shape):
    assert_alike(eager, [feature(*shape)], *bounds(), 4)


def test_ties_with_bounds_and_between_levels(eager):
    # scale 1: the levels are whole numbers, halves lie between them
    x = torch.arange(-40, 41, dtype=torch.float32) / 2
    for lower, upper in ((-7.0, 8.0), (-8.0, 7.0), (0.0, 15.0), (-20.0, -5.0)):
        assert_alike(eager, [x], *bounds(lower, upper), 4)


@pytest.mark.parametrize("lower, upper", [(1.0, -1.0), (2.0, 2.0), (0.0, 0.0), (3.0, 3.00001), (-1e-30, 1e-30)])
def test_crossed_and_equal_bounds(eager, lower, upper):
    assert_alike(eager, [feature(2, 3, 5, 5)], *bounds(lower, upper), 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, 1e-42])
def test_extreme_values(eager, value):
    x = feature(2, 3, 5, 5)
    x[1, 2, 3, 4] = value
    assert_alike(eager, [x], *bounds(), 4)
    assert_alike(eager, [x], *sample_bounds(2), 4)


@pytest.mark.parametrize("lower, upper", [(float("nan"), 1.0), (-1.0, float("nan"))])
def test_bounds_that_are_nan(eager, lower, upper):
    assert native.quantize([feature(9)], *bounds(lower, upper), 4).isnan().all()
    assert eager(fake_quantize, feature(9), *bounds(lower, upper), 4).isnan().all()


def test_bounds_by_sample(eager):
    assert_alike(eager, [feature(3, 5, 7, 6)], *sample_bounds(3), 4)


def test_rows_of_every_length_and_more_of_them_than_a_thread_takes(eager):
    for shape in ((2, 300, 9, 7), (3, 2, 101, 103), (2, 3, 1, 9001)):
        assert_alike(eager, [feature(*shape)], *bounds(), 4)
        assert_alike(eager, [feature(*shape)], *sample_bounds(shape[0]), 4)


def test_channels_last(eager):
    x = feature(3, 5, 7, 6).contiguous(memory_format=torch.channels_last)
    assert_alike(eager, [x], *bounds(), 4)
    assert_alike(eager, [x], *sample_bounds(3), 4)
    assert fake_quantize(x, *bounds(), 4).is_contiguous(memory_format=torch.channels_last)


def test_gradient_in_another_layout(eager):
    x, (lower, upper) = feature(3, 5, 7, 6).requires_grad_(), bounds()
    grad = feature(3, 5, 7, 6, seed=1)
    plain, = torch.autograd.grad(fake_quantize(x, lower, upper, 4), x, grad)
    other, = torch.autograd.grad(fake_quantize(x, lower, upper, 4), x, grad.to(memory_format=torch.channels_last))
    assert torch.equal(plain, other)


def test_parts_are_quantized_as_their_concatenation(eager):
    parts = [feature(3, channels, 33, 31, seed=channels) for channels in (64, 5, 1)]
    for pair in (bounds(), sample_bounds(3)):
        assert_alike(eager, parts, *pair, 4)
        assert torch.equal(fake_quantize_parts(parts, *pair, 4), fake_quantize(torch.cat(parts, 1), *pair, 4))


@pytest.mark.parametrize("of", [
    lambda x: x[:, ::2], lambda x: x.transpose(1, 2), lambda x: x.double(), lambda x: x[:, :, :, :0],
    lambda x: x.expand(2, -1, -1, -1)[:1].expand(3, -1, -1, -1),
], ids=["strided", "transposed", "float64", "empty", "expanded"])
def test_what_the_kernels_do_not_serve_is_right_as_well(eager, of):
    x = of(feature(1, 6, 5, 4))
    lower, upper = (bound.to(x.dtype) for bound in bounds())
    assert native.quantize([x], lower, upper, 4) is None
    assert torch.equal(fake_quantize(x, lower, upper, 4), eager(fake_quantize, x, lower, upper, 4))


def test_parts_in_channels_last(eager):
    parts = [feature(2, 3, 5, 4).to(memory_format=torch.channels_last) for _ in range(2)]
    expected = eager(fake_quantize, torch.cat(parts, 1), *bounds(), 4)
    assert torch.equal(fake_quantize_parts(parts, *bounds(), 4), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_no_result_depends_on_the_number_of_threads(eager, memory_format):
    threads, x = torch.get_num_threads(), feature(2, 64, 40, 41).contiguous(memory_format=memory_format)
    try:
        results = [eager(gradients, [x], *bounds(), 4)]
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(gradients([x], *bounds(), 4))
            results.append(eager(gradients, [x], *bounds(), 4))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


def test_threads_that_quantize_at_a_time():
    x = feature(2, 64, 40, 41)
    expected = fake_quantize(x, *bounds(), 4)
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: fake_quantize(x, *bounds(), 4), range(16)):
            assert torch.equal(y, expected)


class Quantizer(nn.Module):
    def forward(self, x):
        return fake_quantize(x, *bounds(), 4)


def test_exported_programs_hold_the_operations():
    """A kernel is invisible to tracing: its result would be taken for a constant."""
    program = torch.export.export(Quantizer(), (feature(2, 3, 5, 5),)).module()
    x = feature(2, 3, 5, 5, seed=3)
    assert torch.equal(program(x), fake_quantize(x, *bounds(), 4))


@pytest.mark.slow
def test_compiled_functions_hold_the_operations():
    x, grad = feature(2, 3, 5, 5).requires_grad_(), feature(2, 3, 5, 5, seed=1)
    y = torch.compile(Quantizer(), backend="eager", fullgraph=True)(x)
    expected = Quantizer()(x)
    assert torch.equal(y, expected)
    assert torch.equal(*(torch.autograd.grad(result, x, grad)[0] for result in (y, expected)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["edsr", "rdn", "srresnet"])
def test_a_run_without_a_compiler_has_the_same_bits(eager, small_network, smooth_image, name, memory_format):
    def trained():
        network = small_network(name).train().to(memory_format=memory_format)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        x = smooth_image(12, 10, count=2)
        for _ in range(3):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        return network.state_dict()

    ours, theirs = trained(), eager(trained)
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
