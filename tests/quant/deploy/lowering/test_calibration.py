import torch
from torch.nn import functional as F

from quant.deploy.lowering.calibration import Feature, _windows, calibrate


def feature_of(values):
    feature = Feature()
    feature.see(values, torch.Generator().manual_seed(0))
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
    assert {tuple(window.tolist()) for window in some} <= every and len(some) == 256


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
    assert last.high == max(0, *(one.max().item() for one in added))
    assert last.low == min(0, *(one.min().item() for one in added))
