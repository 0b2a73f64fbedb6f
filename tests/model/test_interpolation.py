"""The start as bilinear enlargement: equal to torch's own, and reached from the command line."""

import re

import pytest
import torch
from torch.nn.functional import interpolate

from model import NETWORKS
from model.interpolation import start_as_interpolation
from model.torch_file import read_torch_file
from utility import UserError

SMALL = {"edsr": {"n_feats": 8, "n_resblocks": 2}, "srresnet": {"n_feats": 8, "n_resblocks": 2},
         "rdn": {"G0": 8, "RDNconfig": "A"}}

pytestmark = pytest.mark.usefixtures("small_rdn")


@pytest.mark.parametrize("n_colors", [3, 1])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_is_bilinear_away_from_the_border(name, scale, n_colors):
    network = start_as_interpolation(NETWORKS[name](scale=scale, n_colors=n_colors, **SMALL[name])).eval()
    lr = 255 * torch.rand(2, n_colors, 24, 20)
    expected = lr
    for factor in (2, 2) if scale == 4 else (scale,):
        expected = interpolate(expected, scale_factor=factor, mode="bilinear")
    inside = slice(6 * scale, -6 * scale)
    with torch.no_grad():
        torch.testing.assert_close(network(lr)[:, :, inside, inside], expected[:, :, inside, inside], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_learns_in_every_part(name):
    network = start_as_interpolation(NETWORKS[name](scale=2, **SMALL[name]))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    before = {key: value.clone() for key, value in network.named_parameters()}
    lr, hr = 255 * torch.rand(2, 3, 8, 8), 255 * torch.rand(2, 3, 16, 16)
    for _ in range(3):
        optimizer.zero_grad()
        (network(lr) - hr).abs().mean().backward()
        optimizer.step()
    still = [key for key, value in network.named_parameters() if value.requires_grad and value.equal(before[key])]
    assert not still


def test_flag(launch, experiments):
    assert launch("--model edsr --init interpolation --save interpolated --lr 1e-9") == 0
    weights = read_torch_file(experiments / "interpolated" / "model" / "model_best.pth.tar")["state_dict"]
    assert weights["head.0.weight"][0, 0, 1, 1] == pytest.approx(1)
    assert weights["body.1.weight"][:3].abs().max() < 1e-6


@pytest.mark.parametrize("flags, quantized", [("--refine weights.pt", False), ("", True)])
def test_flag_that_would_do_nothing_is_refused(flags, quantized, launch, capfd):
    assert launch(f"--init interpolation {flags}", quantized=quantized) == 2
    assert re.match("error: --init interpolation: .*", capfd.readouterr().err)


@pytest.mark.parametrize("name, settings", [("edsr", {"n_feats": 2}), ("rdn", {"G0": 8, "RDNkSize": 1})])
def test_too_small_a_network_is_refused(name, settings):
    with pytest.raises(UserError, match="--init interpolation: needs 3 features and kernels of 3 or more"):
        start_as_interpolation(NETWORKS[name](scale=2, **settings))


def test_a_network_that_does_not_say_its_parts_is_refused():
    from added_parts import ESPCN

    with pytest.raises(UserError, match="--init interpolation: ESPCN has no such start"):
        start_as_interpolation(ESPCN(scale=2))
