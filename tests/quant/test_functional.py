import numpy as np
import pytest
import torch
from percentiles import numpy_percentile

from quant.functional import (
    extremes,
    fake_quantize,
    folded,
    integer_levels,
    percentiles,
    raised_upper,
    scale_and_zero,
    width_floor,
)

BITS = range(2, 9)
BOUNDS = {
    "symmetric": ([-1.0], [1.0]),
    "asymmetric": ([-0.7], [2.2]),
    "above zero": ([0.4], [1.9]),
    "per sample": ([[[[-1.0]]], [[[-0.25]]], [[[0.5]]]], [[[[0.5]]], [[[1.5]]], [[[2.0]]]]),
}


class StraightThrough(torch.autograd.Function):
    """round, whose gradient is 1."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def plain_formula(x, lower, upper, k_bits):
    """Spec, section 3, word for word; autograd finds its gradients."""
    scale = (2**k_bits - 1) / (upper - lower)
    zero = StraightThrough.apply(scale * lower) + 2 ** (k_bits - 1)
    clipped = torch.max(torch.min(x, upper), lower)
    return (StraightThrough.apply(scale * clipped - zero) + zero) / scale


def feature_with_ties(lower, upper, k_bits, dtype):
    """[3, 5, 4, 4]: random values, and in each sample both bounds and halves between levels."""
    x = torch.randn(3, 5, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(k_bits))
    lower, upper = (bound.expand(3, 1, 1, 1).flatten() for bound in (lower, upper))
    x[:, 0, 0, 0], x[:, 0, 0, 1] = lower, upper
    x[:, 1, 0] = (lower + 0.5 * (upper - lower) / (2**k_bits - 1))[:, None]
    return x


def with_gradients(function, x, lower, upper, k_bits):
    leaves = [tensor.clone().requires_grad_() for tensor in (x, lower, upper)]
    y = function(*leaves, k_bits)
    weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    return y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)


@pytest.mark.parametrize("k_bits", BITS)
@pytest.mark.parametrize("case", BOUNDS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_equals_autograd_through_the_plain_formula(case, k_bits, dtype, close):
    lower, upper = (torch.tensor(bound, dtype=dtype) for bound in BOUNDS[case])
    arguments = feature_with_ties(lower, upper, k_bits, dtype), lower, upper, k_bits
    y, *gradients = with_gradients(fake_quantize, *arguments)
    expected, *expected_gradients = with_gradients(plain_formula, *arguments)
    assert torch.equal(y, expected)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)  # sums of some hundred terms in another order


@pytest.mark.parametrize("k_bits", BITS)
def test_levels_are_whole_numbers_between_the_bounds(k_bits):
    x, lower, upper = torch.linspace(-3, 3, 1001), torch.tensor([-1.15]), torch.tensor([2.3])
    levels, scale = integer_levels(x, lower, upper, k_bits)
    assert torch.equal(levels, levels.round()) and torch.equal(levels.unique(), torch.arange(levels[0], levels[-1] + 1))
    assert len(levels.unique()) == 2**k_bits
    assert torch.equal(fake_quantize(x, lower, upper, k_bits), levels / scale)


@pytest.mark.parametrize("k_bits", BITS)
def test_q_fits_signed_bits(k_bits):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lower, upper = (torch.rand(2, 1, generator=generator) * 3 - 1).sort(dim=0).values
        levels, _ = integer_levels(torch.linspace(-2, 3, 500), lower, upper, k_bits)
        q = levels - scale_and_zero(lower, upper, k_bits)[1]
        assert q.min() == -(2 ** (k_bits - 1)) and q.max() == 2 ** (k_bits - 1) - 1


@pytest.mark.parametrize("k_bits", BITS)
def test_a_grid_of_levels_comes_back_unchanged(k_bits):
    lower, upper = torch.tensor([-0.75]), torch.tensor([1.5])
    grid = fake_quantize(torch.linspace(-1, 2, 2000), lower, upper, k_bits).unique()
    inside = grid[(grid >= lower) & (grid <= upper)]  # the outermost levels may lie half a step beyond the bounds
    assert len(inside) >= 2**k_bits - 1
    assert torch.equal(fake_quantize(inside, lower, upper, k_bits), inside)


def test_a_tie_with_a_bound_counts_one_half():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], requires_grad=True)
    fake_quantize(x, torch.tensor([-1.0]), torch.tensor([1.0]), 4).sum().backward()
    assert x.grad.tolist() == [0, 0.5, 1, 0.5, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("lower", "upper"), [(1.0, -1.0), (0.5, 0.5), (0.0, 0.0), (-1e-30, 1e-30), (1e6, 1e6 + 0.1)],
                         ids=["crossed", "equal", "zero", "tiny", "narrow"])
def test_bounds_that_met_give_finite_values_and_gradients(lower, upper, dtype):
    x = torch.tensor([[-3.0, 0.0, 0.5, 1.0, 1e6]], dtype=dtype)
    for tensor in with_gradients(fake_quantize, x, torch.tensor([lower], dtype=dtype),
                                 torch.tensor([upper], dtype=dtype), 4):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-7, 255.0, 1e8])
def test_a_constant_between_its_own_extremes_stays_itself(value):
    x = torch.full((2, 3, 4, 4), value)
    # the range is widened above it by 1e-4 of it, and 2 bits make 3 steps of that
    torch.testing.assert_close(fake_quantize(x, x.min(), x.max(), 2), x, rtol=1e-4, atol=1e-8)


def test_only_bounds_that_met_are_moved():
    lower, upper = torch.tensor([-1.0, 1.0, 2.0]), torch.tensor([1.0, -1.0, 2.0001])
    raised = raised_upper(lower, upper)
    assert raised[0] == upper[0]
    assert torch.equal(raised[1:], (lower + width_floor(lower, upper))[1:])


@pytest.mark.parametrize("k_bits", [0, 1, 9, 32])
def test_other_bit_widths_are_refused(k_bits):
    with pytest.raises(ValueError, match=f"k_bits {k_bits}"):
        fake_quantize(torch.zeros(1), torch.tensor([-1.0]), torch.tensor([1.0]), k_bits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 9, 20, 64, 100, 1153, 36864])
def test_percentile_is_numpys(count, dtype):
    rows = np.random.default_rng(count).standard_normal((20, count)).astype(dtype)
    for q in (0, 1, 5, 37.5, 50, 95, 99, 100):
        results = [percentiles(torch.from_numpy(row), q)[0] for row in rows]
        assert all(result.shape == () for result in results)
        assert [result.item() for result in results] == [numpy_percentile(row, q) for row in rows], q


def test_percentile_of_values_that_repeat():
    x = torch.tensor([2.0, 0.0, 0.0, 0.0, 2.0, 2.0])
    for dtype in (torch.float32, torch.bfloat16):
        assert [percentiles(x.to(dtype), q)[0].item() for q in (0, 40, 50, 60, 100)] == [0, 0, 1, 2, 2]


def feature(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def other_devices(monkeypatch):
    """Percentiles as devices other than the CPU compute them."""
    def call(*args):
        with monkeypatch.context() as patch:
            patch.setattr(torch.jit, "is_tracing", lambda: True)
            return percentiles(*args)

    return call


@pytest.mark.parametrize("x", [
    feature(64, 64, 3, 3), feature(7), feature(1), torch.full((50,), 2.0), torch.arange(1000.0) % 3,
    torch.cat((feature(999), torch.tensor([1e30]))), torch.tensor([0.0, 1e-45] * 9), -feature(8, 8).abs(),
    torch.tensor([-3e38, 3e38, 0, 1, 2]),
], ids=["weights", "seven", "one", "equal", "ties", "outlier", "denormal", "negative", "overflow"])
def test_percentiles_are_numpys(other_devices, x):
    for q in (0, 1, 5, 50, 95, 99, 99.9, 100):
        assert torch.equal(*percentiles(x, q), *other_devices(x, q))
        assert percentiles(x, q)[0].item() == numpy_percentile(x, q)


def test_several_percentiles_at_once():
    x = feature(4000)
    assert percentiles(x, 99, 1, 50) == [*percentiles(x, 99), *percentiles(x, 1), *percentiles(x, 50)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_percentiles_of_what_is_not_finite(other_devices, value):
    x = feature(5000)
    x[77] = value
    for q in (0, 1, 99, 100):
        torch.testing.assert_close(percentiles(x, q), other_devices(x, q), rtol=0, atol=0, equal_nan=True)


def test_extremes():
    x = feature(2, 3, 5, 7)
    assert torch.equal(extremes(x), torch.stack((x.min(), x.max())))
    x[1, 2, 3, 4] = float("nan")
    assert extremes(x).isnan().all()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1001])
def test_a_folded_sum_is_the_sum(count):
    x = torch.randint(-99, 99, (3, count)).double()
    assert torch.equal(folded(x.clone()), x.sum(1))


def test_bounds_of_other_shapes_get_their_sums_too():
    x, lower = torch.randn(2, 3, 4, 5), torch.full((1, 3, 1, 1), -0.5, requires_grad=True)
    fake_quantize(x, lower, torch.ones(3, 1, 1), 4).sum().backward()
    by_channel = [torch.full((1,), -0.5, requires_grad=True) for _ in range(3)]
    for channel, bound in enumerate(by_channel):
        fake_quantize(x[:, channel], bound, torch.ones(1), 4).sum().backward()
    torch.testing.assert_close(lower.grad.flatten(), torch.cat([bound.grad for bound in by_channel]))
