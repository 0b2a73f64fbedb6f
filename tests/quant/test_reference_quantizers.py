"""Every array of shared/reference/quantizers.npz, measured on the published release, against this program."""

import numpy as np
import pytest
import torch

from quant.functional import fake_quantize
from quant.methods.ddtb import DualBoundQuantizer
from quant.weight import quantize_minmax, quantize_percentile, quantize_symmetric

BITS = (2, 3, 4, 6, 8)
WEIGHT_QUANTIZERS = {"pct99": quantize_percentile, "minmax": quantize_minmax, "absmax": quantize_symmetric}


@pytest.fixture(scope="module")
def numbers(shared):
    return {key: torch.from_numpy(value) for key, value in np.load(shared / "reference" / "quantizers.npz").items()}


def assert_gradient(actual, expected):
    assert (actual - expected).norm() <= 1e-5 * expected.norm()  # float32 sums in another order


@pytest.mark.parametrize("k_bits", BITS)
@pytest.mark.parametrize("case", ["sym", "asym", "relu", "positive"])
def test_static_activation_quantizer(numbers, case, k_bits):
    x, bounds, y, w, gx, gu, gl = (numbers[f"static_{case}_{k_bits}_{part}"] for part in
                                   ("x", "bounds", "y", "w", "gx", "gu", "gl"))
    x, lower, upper = (tensor.clone().requires_grad_() for tensor in (x, bounds[:1], bounds[1:]))
    result = fake_quantize(x, lower, upper, k_bits)
    (result * w).sum().backward()
    assert torch.equal(result, y)
    assert_gradient(x.grad, gx)
    assert_gradient(upper.grad, gu)
    assert_gradient(lower.grad, gl)


@pytest.mark.parametrize("k_bits", BITS)
@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_weight_quantizer(numbers, name, k_bits):
    x, y, g, gx = (numbers[f"w_{name}_{k_bits}_{part}"] for part in ("x", "y", "g", "gx"))
    x = x.clone().requires_grad_()
    result = WEIGHT_QUANTIZERS[name](x, k_bits)
    (result * g).sum().backward()
    assert torch.equal(result, y)
    assert_gradient(x.grad, gx)


@pytest.mark.parametrize("k_bits", BITS)
def test_gate_activation_quantizer(numbers, k_bits):
    x = numbers[f"gate_act_{k_bits}_x"]
    assert torch.equal(fake_quantize(x, x.min(), x.max(), k_bits), numbers[f"gate_act_{k_bits}_y"])


@pytest.mark.parametrize("percentile", [99, 95])
def test_first_bounds(numbers, percentile):
    x = numbers["calib_M99_x"]
    quantizer = DualBoundQuantizer(x.shape[1], 2, percentile=percentile)
    quantizer(x)
    bounds = torch.cat((quantizer.alpha_lower, quantizer.alpha_upper))
    assert torch.equal(bounds.double(), numbers[f"calib_M{percentile}_bounds"])
