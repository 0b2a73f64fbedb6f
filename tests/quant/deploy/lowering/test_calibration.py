from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from quant import export
from quant.deploy.lowering.calibration import (
    MORE_CHANNELS,
    POWERS,
    WINDOW_VALUES,
    Calibration,
    Feature,
    _windows,
    calibrate,
)
from quant.deploy.lowering.layout import Layout
from quant.deploy.onnx_backend import OnnxRuntimeSession


def feature_of(values):
    feature = Feature()
    feature.observe(values.view(1, 1, 1, -1), torch.Generator().manual_seed(0))
    return feature


def test_even_values_keep_their_whole_range():
    assert feature_of(torch.linspace(-1, 3, 100_000)).range() == (-1, 3)


def test_zero_is_within():
    assert feature_of(torch.linspace(2, 3, 1000)).range()[0] == 0


def test_a_far_value_is_clipped():
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    values[::100] *= 4
    low, high = feature_of(values).range()
    assert values.min() < low < -4 and 4 < high < values.max()


def test_a_constant_feature():
    assert feature_of(torch.zeros(100)).range() == (0, 0)


def test_windows_are_what_a_convolution_sees():
    x = torch.randn(1, 3, 7, 6, generator=torch.Generator().manual_seed(0))
    every = {tuple(window.tolist()) for window in F.unfold(x, 3, padding=1)[0].T}
    some = _windows(x, 3, torch.Generator().manual_seed(0))
    assert {tuple(window.tolist()) for window in some} <= every and len(some) == WINDOW_VALUES // 27


def test_every_feature_is_seen_and_nothing_left_behind(small_network, smooth_image):
    network = small_network("srresnet")
    images = [smooth_image(8, 8), smooth_image(6, 9, seed=1)]
    seen = calibrate(network, images)
    assert set(seen.covariances) == {network.conv_input, network.conv_mid, *network.upscale[:1], network.conv_output}
    assert seen.covariances[network.conv_input].shape == (243, 243)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    with torch.no_grad():
        heads = [network.relu(network.conv_input(image)) for image in images]
        added = [(network.residual(head) - head) for head in heads]
    last = seen.features[network.residual[-1]]
    lows, highs = zip(*(torch.aminmax(one) for one in added), strict=True)
    assert last.extremes() == (min(0, *map(float, lows)), max(0, *map(float, highs)))
    whole, doubled = (seen.range(network.residual[-1], np.full(len(last.low), factor)) for factor in (1, 0.5))
    np.testing.assert_allclose(doubled, np.multiply(whole, 2), 1e-6)


def test_what_convolutions_read_is_averaged_over_the_images(small_network, smooth_image):
    network = small_network("edsr")
    conv = network.head[0]
    images = [smooth_image(8, 8), smooth_image(6, 9, seed=1) / 2]
    seen, alone = calibrate(network, images), [calibrate(network, [image]) for image in images]
    for name in ("means", "covariances"):
        expected = sum(getattr(one, name)[conv] for one in alone) / 2
        torch.testing.assert_close(getattr(seen, name)[conv], expected, rtol=0.05, atol=0.05 * expected.abs().max())
    low, high = seen.input_range(conv, np.ones(3))
    inputs = [network.sub_mean(image) for image in images]
    assert low >= min(one.min() for one in inputs) and high <= max(one.max() for one in inputs)


def test_a_shift_goes_into_a_channel_of_ones(small_network):
    """What calibration sees behind sub_mean says what it would have seen before it."""
    conv = small_network("edsr").head[0]
    windows = torch.randn(500, 27, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift, seen = np.array([3.0, -1.0, 2.0]), Calibration()
    moved = windows + torch.from_numpy(shift.repeat(9))
    seen.means[conv], seen.covariances[conv] = moved.mean(0), moved.T @ moved / 500
    before = torch.cat((windows, torch.full((500, 9), 7.0, dtype=torch.float64)), 1)
    torch.testing.assert_close(seen.covariance_before_shift(conv, shift, 7.0), before.T @ before / 500)


def test_channels_are_divided_by_what_they_are_and_do(small_network, smooth_image):
    network = small_network("edsr")
    first, last, up = network.head[0], network.body[-1], network.tail[0][0]
    seen = calibrate(network, [smooth_image(8, 8)])
    ranges = torch.maximum(-seen.inputs[up].low, seen.inputs[up].high).double()
    weights = up.weight.detach().abs().amax((0, 2, 3)).double()
    expected = [(ranges**power / weights**other).numpy() for power, other in POWERS]
    factors = seen.layout(up, first, last).factors
    assert any(np.allclose(factors, one, 1e-6) for one in expected)
    behind = seen.layout(network.tail[1])  # a shuffle makes four channels one
    assert len(behind.copies) == network.tail[1].in_channels == up.out_channels // 4
    for empty in (1, slice(None)):
        with torch.no_grad():
            up.weight[:, empty] = 0
        assert np.isfinite(seen.layout(up, first, last).factors).all()


def test_channels_whose_weights_stand_out_are_repeated(small_network, smooth_image):
    network = small_network("edsr")
    first, last, up = network.head[0], network.body[-1], network.tail[0][0]
    seen = calibrate(network, [smooth_image(8, 8)])
    with torch.no_grad():
        up.weight[:, 2] *= 100
    copies = seen.layout(up, first, last).copies
    assert copies[2] == copies.max() > 1 and copies.sum() == len(copies) + int(MORE_CHANNELS * len(copies))
    assert seen.layout(up, first, last, repeat=False).copies.max() == 1


def test_channels_of_unlike_size_cost_no_precision(small_network, smooth_image, monkeypatch):
    """What three channels lose in one convolution the next one gives back: the same network, hard to round as it is."""
    network = small_network("edsr", k_bits=6, dynamic=0)
    up, last = network.tail[0][0], network.tail[1]
    with torch.no_grad():
        for parameter in (up.weight, up.bias):
            parameter[:12] /= 30
        last.weight[:, :3] *= 30
    images = [smooth_image(16, 16)]
    expected = network(images[0]).detach().round().clamp(0, 255)

    def error():
        exported = export.export(network, rest="int8", images=images)
        session = OnnxRuntimeSession(Path("x.onnx"), 1, exported.SerializeToString())
        (sr,) = session.run(["sr"], {"lr": images[0].numpy()})
        return (torch.from_numpy(sr) - expected).square().mean().sqrt().item()

    divided = error()
    monkeypatch.setattr(Calibration, "layout", lambda self, conv, *_, **__: Layout.repeated(conv.in_channels, 1))
    assert divided < 0.7 * error()
