import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from plain_rounding import rounded_weight

from quant.deploy.lowering.exact import exact_conv
from quant.deploy.lowering.image_model import DEFAULT_OPSET
from quant.deploy.lowering.levels import (
    Codes,
    Grid,
    IntegerWeight,
    affine_grid,
    quantized_weight,
    rounded_bias,
    static_grid,
)
from quant.deploy.lowering.qlinear import QLinear
from quant.functional import integer_levels
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import QuantConv2d
from utility import UserError


def quantizer(lower, upper, k_bits):
    made = DualBoundQuantizer(4, k_bits, percentile=99)
    with torch.no_grad():
        made.alpha_lower.fill_(lower)
        made.alpha_upper.fill_(upper)
    return made


@pytest.mark.parametrize("k_bits", [2, 3, 4, 6])
@pytest.mark.parametrize(("lower", "upper"), [(-1.3, 2.1), (-10.0, 10.0), (0.0, 0.7), (0.2, 3.0), (-2.0, -0.5)])
def test_static_grid_has_the_quantizers_levels(k_bits, lower, upper):
    made = quantizer(lower, upper, k_bits)
    grid = static_grid("act", made)
    x = torch.from_numpy(np.random.default_rng(0).uniform(lower - 1, upper + 1, 1000).astype(np.float32))
    expected = made.eval()(x.view(1, 1, 1, -1)).detach().flatten().numpy()
    codes = np.clip(np.rint(np.clip(x.numpy(), lower, upper) / np.float32(grid.step)) + grid.zero, grid.low, grid.high)
    assert np.abs((codes - grid.zero) * grid.step - expected).max() < 1e-6
    assert 0 <= grid.zero and 0 <= grid.low <= grid.high <= 255


def test_static_grid_after_relu_has_no_negative_codes():
    grid = static_grid("act", quantizer(-1.0, 2.0, 4), after_relu=True)
    assert (grid.zero, grid.low) == (0, 0) and grid.high == 10


def test_bounds_below_zero_give_their_upper_one_after_relu():
    made = quantizer(-20.0, -5.0, 4)
    grid = static_grid("act", made, after_relu=True)
    expected = made.eval()(torch.linspace(0, 30, 20).view(1, 1, 1, -1)).detach()
    assert grid.low == grid.high and torch.allclose(expected, torch.tensor(grid.bounds[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1e-12, 1e-9, 1e-5])
def test_a_bias_far_above_its_weight_fits_int32(size):
    levels = np.random.default_rng(0).integers(-127, 128, (3, 4, 3, 3))
    weight, bias = IntegerWeight(levels, np.array([0.01, size or 1e-14, 0.02])), np.array([3.0, -90.0, 0.0])
    held = weight.holding(bias, 0.5)
    assert np.array_equal(held.levels[::2], levels[::2]) and np.array_equal(held.step[::2], weight.step[::2])
    unit = 0.5 * held.step
    assert np.allclose(rounded_bias(bias, unit) * unit, bias, rtol=1e-6)
    worst = 0.5 * 255 * np.abs(held.levels[1] * held.step[1] - levels[1] * weight.step[1]).sum()
    assert worst < 1e-4 * 90
    assert IntegerWeight(levels, 0.01).holding(bias, 0.5).step == 0.01


def test_bounds_far_from_zero_are_refused():
    with pytest.raises(UserError, match="body.0.act1: its bounds"):
        static_grid("body.0.act1", quantizer(5.0, 5.01, 4))


@pytest.mark.parametrize("seed", range(5))
def test_affine_grid(seed):
    low, high = np.sort(np.random.default_rng(seed).normal(size=2))
    grid = affine_grid(low, high)
    assert 0 <= grid.zero <= 255
    reached = grid.bounds
    assert reached[0] <= min(low, 0) + grid.step / 2 + 1e-9 and reached[1] >= max(high, 0) - grid.step / 2 - 1e-9
    assert affine_grid(0.0, 255.0) == Grid(1.0, 0, 0, 255)
    assert affine_grid(0.0, 0.0).step > 0


@pytest.mark.parametrize("kind", ["percentile", "minmax"])
@pytest.mark.parametrize("k_bits", [2, 3, 4, 6])
def test_quantized_weight(kind, k_bits):
    conv = QuantConv2d(torch.nn.Conv2d(8, 6, 3), k_bits, kind)
    weight = quantized_weight("conv", conv)
    assert np.allclose(weight.levels * weight.step, conv.quantized_weight().detach().numpy(), rtol=0, atol=1e-7)
    assert np.ptp(weight.levels) < 2**k_bits


def test_weights_on_one_side_are_refused():
    conv = torch.nn.Conv2d(2, 2, 3)
    torch.nn.init.uniform_(conv.weight, 1.0, 1.01)
    with pytest.raises(UserError, match="RDBs.0.LFF: weights at 4 bits reach level"):
        quantized_weight("RDBs.0.LFF", QuantConv2d(conv, 4, "minmax"))


def test_products_saturate_nowhere():
    """Without VNNI, x86 adds two products of a uint8 and an int8 in 16 bits."""
    rounded = rounded_weight(np.random.default_rng(0).normal(size=(4, 3, 3, 3)))
    assert 2 * 255 * np.abs(rounded.levels).max() < 2**15
    for largest_code in (3, 15, 30, 63, 255):
        levels = IntegerWeight(np.arange(-8, 9).reshape(1, 17, 1, 1), 1.0).spread(largest_code).levels
        assert np.abs(levels).max() <= 127 and 2 * largest_code * np.abs(levels).max() < 2**15
        assert np.gcd.reduce(np.abs(levels).ravel()) > 1 or largest_code == 255


def test_scaling_by_negative_factors():
    weight = IntegerWeight(np.array([1, -2, 3, -4]).reshape(2, 2, 1, 1), 0.5).scaled(np.array([2.0, -3.0]))
    real = weight.levels[:, :, 0, 0] * weight.step[:, None]
    assert np.array_equal(real, [[1.0, -2.0], [-4.5, 6.0]]) and (weight.step > 0).all()


@pytest.mark.parametrize("k_bits", [2, 3, 4])
@pytest.mark.parametrize("zero", [0, 5])
def test_exact_conv_for_every_sum(k_bits, zero):
    """float32 as the kernel computes it, against real arithmetic, for every accumulator there can be."""
    rng = np.random.default_rng(k_bits)
    codes, half, step = 2**k_bits - 1, 2 ** (k_bits - 1), 0.01
    levels = rng.integers(-half, half, (16, 8, 3, 3))
    grid_in = Grid(0.1234567, 1, 0, codes)
    grid_out = Grid(grid_in.step * step * half * codes, zero, 0, codes)
    bias = rng.normal(size=16) * grid_out.step * 2
    made, biases = exact_conv(IntegerWeight(levels, step), bias, grid_in, grid_out)
    spread, factors = made.levels // np.where(levels, levels, 1), made.step * grid_in.step / grid_out.step
    assert np.array_equal(made.levels, levels * spread.max())

    for channel in range(16):
        ends = np.stack((levels[channel] * (grid_in.low - 1), levels[channel] * (grid_in.high - 1)))
        sums = np.arange(ends.min(0).sum(), ends.max(0).sum() + 1)
        real = np.rint((sums * grid_in.step * step + bias[channel]) / grid_out.step)
        accumulators = np.float32(sums * spread.max() + biases[channel])
        kernel = np.rint(accumulators * np.float32(factors[channel]))
        assert np.array_equal(*(np.clip(level + zero, 0, codes) for level in (real, kernel)))


def test_rounding_the_bias_alone_would_not_do():
    """What `exact_conv` is for: the plain choice of integers puts some sums on another level."""
    unit, bias, step = 0.1, 0.449, 5.0
    sums = np.arange(-300, 300)
    real = np.rint((sums * unit + bias) / step)
    assert not np.array_equal(real, np.rint((sums + round(bias / unit)) * unit / step))


def test_some_sums_cannot_be_exact():
    """Sums of whole numbers that change their level at uneven steps, and no room below a unit to say so."""
    levels = np.ones((1, 1, 1, 1), np.int64)
    grids = Grid(1.0, 0, 0, 20000), Grid(10.3, 0, 0, 63)  # so many codes that weights are not spread
    assert exact_conv(IntegerWeight(levels, 1.0), np.array([0.47]), *grids) is None
    assert exact_conv(IntegerWeight(levels * 127, 1 / 127), np.array([0.47]), *grids) is not None


def test_integer_levels_of_a_tie_are_one_more():
    """Bounds symmetric to the bit give 2**k + 1 levels; packing and grids have to cope."""
    levels, _ = integer_levels(torch.tensor([-10.0, 10.0]), torch.tensor([-10.0]), torch.tensor([10.0]), 4)
    assert levels.tolist() == [-8, 8]
    grid = static_grid("act", quantizer(-10.0, 10.0, 4))
    assert (grid.low, grid.high, grid.zero) == (0, 16, 8)


def test_the_mean_of_an_image_of_any_size_is_exact():
    """255 in so many pixels is more than an int32 holds."""
    graph = QLinear(torch.nn.Module())
    mean = graph.mean_of(Codes("x", Grid(0.5, 3, 0, 255), 1))
    ends = [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1, "h", "w"])], [
        helper.make_tensor_value_info(mean, TensorProto.FLOAT, None)]
    made = helper.make_model(helper.make_graph(graph.nodes, "mean", *ends, graph.initializers), ir_version=8,
                             opset_imports=[helper.make_opsetid("", DEFAULT_OPSET)])
    session = onnxruntime.InferenceSession(made.SerializeToString())
    for shape, value in (((2900, 2950), 255), ((1, 1), 0), ((5, 7), 3)):
        [found] = session.run(None, {"x": np.full((1, 1, *shape), value, np.uint8)})
        assert found.shape == (1, 1, 1, 1) and found.item() == (value - 3) * 0.5
