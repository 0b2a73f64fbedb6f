import copy

import pytest
import torch
from percentiles import numpy_percentile
from torch import nn
from torch.nn import functional as F

from model.common import constant_weights
from quant import Phase, set_phase
from quant.weight import (
    WEIGHT_QUANTIZERS,
    QuantConv2d,
    minmax_bounds,
    percentile_bounds,
    quantize_minmax,
    quantize_percentile,
    quantize_symmetric,
)


def weights(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def gradient(quantizer, weight, k_bits):
    """(quantized weight, gradient of its sum)."""
    weight = weight.clone().requires_grad_()
    result = quantizer(weight, k_bits)
    result.sum().backward()
    return result.detach(), weight.grad


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, padding=1)


def test_bounds():
    weight = weights(8, 4, 3, 3)
    assert [bound.item() for bound in percentile_bounds(weight)] == [numpy_percentile(weight, q) for q in (1, 99)]
    assert [bound.item() for bound in minmax_bounds(weight)] == [weight.min(), weight.max()]


def test_percentile_clips_the_outermost_and_gives_them_no_gradient():
    weight = weights(8, 4, 3, 3)
    low, high = percentile_bounds(weight)
    _, grad = gradient(quantize_percentile, weight, 4)
    assert torch.equal(grad, ((weight > low) & (weight < high)).float())
    assert 0 < (grad == 0).sum() <= 0.03 * weight.numel()


@pytest.mark.parametrize("quantizer", [quantize_minmax, quantize_symmetric])
def test_the_gradient_passes_unchanged(quantizer):
    _, grad = gradient(quantizer, weights(8, 4, 3, 3), 2)
    assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("k_bits", range(2, 9))
def test_symmetric_levels(k_bits):
    weight = weights(16, 8, 3, 3)
    steps = quantize_symmetric(weight, k_bits) / weight.abs().max() * (2 ** (k_bits - 1) - 1)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)  # in steps; a = max|w| + 1e-8
    assert steps.abs().max().round() == 2 ** (k_bits - 1) - 1


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
@pytest.mark.parametrize("value", [0.0, 0.3, -1e-12])
def test_constant_weights_stay_finite(name, value):
    for tensor in gradient(WEIGHT_QUANTIZERS[name], torch.full((4, 3, 3, 3), value), 2):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_other_bit_widths_are_refused(name):
    with pytest.raises(ValueError, match="k_bits 9"):
        WEIGHT_QUANTIZERS[name](weights(2, 2, 3, 3), 9)


@pytest.mark.parametrize("bias", [True, False])
def test_quant_conv_takes_over_the_parameters_and_quantizes_the_weight_only(bias):
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=bias)
    quantized = QuantConv2d(conv, 3, "percentile")
    assert quantized.weight is conv.weight and quantized.bias is conv.bias
    assert quantized.state_dict().keys() == conv.state_dict().keys()
    x = weights(2, 4, 5, 5, seed=1)
    assert torch.equal(quantized(x), F.conv2d(x, quantize_percentile(conv.weight, 3), conv.bias, padding=1))


@pytest.mark.parametrize("settings", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "reflect"}])
def test_quant_conv_keeps_the_geometry(settings):
    conv = nn.Conv2d(4, 6, 3, padding=1, **settings)
    x = weights(2, 4, 9, 9)
    quantized = QuantConv2d(conv, 8, "minmax")
    set_phase(quantized, Phase.CALIBRATE)
    assert torch.equal(quantized(x), conv(x))


def test_calibration_leaves_the_weight_alone_unless_asked(conv):
    x = weights(2, 4, 5, 5)
    for calibrates_quantized in (False, True):
        quantized = QuantConv2d(conv, 2, "minmax", calibrates_quantized=calibrates_quantized)
        set_phase(quantized, Phase.CALIBRATE)
        assert torch.equal(quantized(x), conv(x)) != calibrates_quantized


def test_a_constant_weight_is_quantized_once(conv):
    quantized = QuantConv2d(conv, 2, "minmax").eval()
    with torch.no_grad(), constant_weights():
        first = quantized.quantized_weight()
        assert quantized.quantized_weight() is first
        with constant_weights():
            assert quantized.quantized_weight() is first
        assert quantized.quantized_weight() is first
        assert torch.equal(first, quantize_minmax(conv.weight, 2))


@pytest.mark.parametrize("change", [
    lambda quantized: torch.optim.SGD([quantized.weight], lr=1.0).step(),
    lambda quantized: quantized.load_state_dict({key: value * 2 for key, value in quantized.state_dict().items()}),
    lambda quantized: nn.init.normal_(quantized.weight),
    lambda quantized: quantized.weight.data.mul_(0.5),
    lambda quantized: quantized.weight.data.copy_(torch.rand_like(quantized.weight)),
    lambda quantized: quantized.weight.detach().numpy().fill(0.25),
], ids=["optimizer", "state dict", "init", "data.mul_", "data.copy_", "numpy"])
def test_every_change_of_a_weight_counts(conv, change):
    quantized = QuantConv2d(conv, 2, "minmax").eval()
    conv.weight.grad = torch.randn_like(conv.weight)
    with torch.no_grad():
        with constant_weights():
            quantized.quantized_weight()
        quantized.quantized_weight()
        change(quantized)
        assert torch.equal(quantized.quantized_weight(), quantize_minmax(conv.weight, 2))
        with constant_weights():
            assert torch.equal(quantized.quantized_weight(), quantize_minmax(conv.weight, 2))


def test_what_is_kept_of_a_weight_is_not_shared_by_copies(conv):
    quantized = QuantConv2d(conv, 2, "minmax").eval()
    with torch.no_grad(), constant_weights():
        quantized.quantized_weight()
        other = copy.deepcopy(quantized)
        other.weight.data.mul_(-1)
        assert torch.equal(other.quantized_weight(), quantize_minmax(other.weight, 2))
        assert torch.equal(quantized.quantized_weight(), quantize_minmax(quantized.weight, 2))
