import math
from argparse import Namespace

import pytest
import torch
from torch import nn

import model
from model.common import DIV2K_MEAN
from model.edsr import EDSR, ResBlock
from model.inference import super_resolve
from model.rdn import RDN
from model.srresnet import SRResNet
from quant import QuantConfig, Schedule, quantize
from quant.distill import Distillation

SMALL = {"edsr": {"n_resblocks": 2, "n_feats": 8}, "srresnet": {"n_resblocks": 2, "n_feats": 8},
         "rdn": {"G0": 8, "RDNconfig": "A"}}
NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
# trained parameters, from the architectures' tables; EDSR's fixed colour shifts are 24 more
PARAMETERS = {("edsr", 2): 1_369_859, ("edsr", 3): 1_554_499, ("edsr", 4): 1_517_571, ("rdn", 4): 22_271_107,
              ("srresnet", 2): 1_399_314, ("srresnet", 4): 1_546_771}


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def build(name, scale=2, **settings):
    return model.NETWORKS[name](scale=scale, **{**SMALL[name], **settings})


def image(n=2, height=6, width=9):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255


def plain(*prefixes, leaves=("weight", "bias")):
    return [f"{prefix}.{leaf}" for prefix in prefixes for leaf in leaves]


def edsr_keys(up):
    blocks = [f"body.{i}.body.{j}" for i in range(16) for j in (0, 2)]
    return plain("sub_mean", "add_mean", "head.0", *blocks, "body.16", *(f"tail.0.{j}" for j in up), "tail.1")


def rdn_keys(up):
    blocks = [[*(f"RDBs.{i}.convs.{j}.conv.0" for j in range(8)), f"RDBs.{i}.LFF"] for i in range(16)]
    return plain("SFENet1", "SFENet2", *sum(blocks, []), "GFF.0", "GFF.1", *(f"UPNet.{j}" for j in up))


def srresnet_keys(up):
    blocks = [plain(f"{block}.conv1", leaves=["weight"]) + plain(f"{block}.in1", leaves=NORM)
              + plain(f"{block}.relu", f"{block}.conv2", leaves=["weight"]) + plain(f"{block}.in2", leaves=NORM)
              for block in (f"residual.{i}" for i in range(16))]
    return (plain("conv_input", "relu", leaves=["weight"]) + sum(blocks, []) + plain("conv_mid", leaves=["weight"])
            + plain("bn_mid", leaves=NORM)
            + plain(*(f"upscale.{j}" for j in up), "conv_output", leaves=["weight"]))


@pytest.mark.parametrize(("network", "keys", "up"), [
    (EDSR, edsr_keys, {2: [0], 3: [0], 4: [0, 2]}),
    (RDN, rdn_keys, {2: [0, 2], 3: [0, 2], 4: [0, 2, 4]}),
    (SRResNet, srresnet_keys, {2: [0, 2], 3: [0, 2], 4: [0, 2, 3, 5]}),
])
def test_state_dict_keys(network, keys, up):
    for scale in (2, 3, 4):
        with torch.device("meta"):
            assert list(network(scale=scale).state_dict()) == keys(up[scale])


@pytest.mark.parametrize(("name", "scale"), PARAMETERS)
def test_number_of_parameters(name, scale):
    with torch.device("meta"):
        network = model.NETWORKS[name](scale=scale)
    found = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert found == PARAMETERS[name, scale]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_image_and_feature(name, scale):
    network = build(name, scale).eval()
    sr, feature = network.forward_features(image())
    assert sr.shape == (2, 3, 6 * scale, 9 * scale)
    assert feature.shape == (2, 8, 6, 9)
    assert torch.equal(network(image()), sr)
    assert torch.equal(network.body_feature(image()), feature) and torch.equal(network.upsample(feature), sr)


@pytest.mark.parametrize("scale", [0, 1, 5, 8])
def test_other_scales_are_refused(name, scale):
    with pytest.raises(ValueError, match=f"scale {scale}"):
        build(name, scale)


def test_a_wrong_setting_speaks_up(name):
    with pytest.raises(TypeError):
        build(name, n_featz=8)


def test_settings_rebuild_the_network(name):
    network = build(name, 3)
    again = model.NETWORKS[model.name_of(network)](**network.settings)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(image()), network.eval()(image()))


def test_every_parameter_that_trains_is_used(name):
    network = build(name)
    network(image()).square().sum().backward()
    unused = {key for key, parameter in network.named_parameters() if parameter.grad is None}
    assert unused == ({f"{shift}.{leaf}" for shift in ("sub_mean", "add_mean") for leaf in ("weight", "bias")}
                      if name == "edsr" else set())


def test_one_colour(name):
    network = build(name, n_colors=1).eval()
    assert network(image()[:, :1]).shape == (2, 1, 12, 18)


def test_build_takes_what_each_network_knows(name):
    options = Namespace(model=name, scale=4, n_colors=3, n_resblocks=2, n_feats=8, res_scale=0.5, rgb_range=1, G0=8,
                        RDNkSize=3, RDNconfig="A")
    network = model.build(options)
    assert model.name_of(network) == name and network.scale == 4
    assert all(getattr(options, key) == value for key, value in network.settings.items())


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_edsr_works_around_the_mean_of_div2k(rgb_range):
    """With a body and tail of zeros the output is that mean, whatever comes in."""
    network = EDSR(scale=2, n_resblocks=1, n_feats=4, rgb_range=rgb_range)
    mean = torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1) * rgb_range
    torch.testing.assert_close(network.sub_mean(mean.expand(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))
    nn.init.zeros_(network.tail[1].weight)
    nn.init.zeros_(network.tail[1].bias)
    assert torch.equal(network(image(1)), mean.expand(1, 3, 12, 18))


@pytest.mark.parametrize("res_scale", [1.0, 0.1])
def test_edsr_block(res_scale):
    block, x = ResBlock(4, res_scale), torch.randn(1, 4, 5, 5)
    conv1, _, conv2 = block.body
    torch.testing.assert_close(block(x), x + res_scale * conv2(conv1(x).relu()))


@pytest.mark.parametrize(("config", "blocks", "convs", "growth"), [("A", 20, 6, 32), ("B", 16, 8, 64)])
def test_rdn_configurations(config, blocks, convs, growth):
    with torch.device("meta"):
        network = RDN(scale=2, RDNconfig=config)
    assert len(network.RDBs) == blocks
    for block in network.RDBs:
        shapes = [dense.conv[0].weight.shape for dense in block.convs]
        assert shapes == [(growth, 64 + j * growth, 3, 3) for j in range(convs)]
        assert block.LFF.weight.shape == (64, 64 + convs * growth, 1, 1)
    assert network.GFF[0].weight.shape == (64, 64 * blocks, 1, 1) and network.GFF[1].weight.shape == (64, 64, 3, 3)


def test_srresnet_starts_from_its_own_distribution():
    torch.manual_seed(0)
    network = SRResNet(scale=2, n_resblocks=1)
    for conv in (network.conv_input, network.residual[0].conv2, network.upscale[0]):
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert conv.bias is None
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)  # of some 10,000 samples
        assert abs(conv.weight.mean().item()) < 0.05 * expected
    assert network.relu.weight.shape == (1,) and network.residual[0].relu.weight.shape == (1,)


def test_networks_know_nothing_of_quantization():
    assert not any("quant" in type(module).__module__ for kind in SMALL for module in build(kind).modules())


class Clamped(EDSR):
    def forward(self, lr):
        return super().forward(lr).clamp(0, 255)


class Mixed(nn.Module):
    def forward_features(self, lr):
        return lr, lr


@pytest.mark.parametrize("kind", [Clamped, type("Other", (Mixed, EDSR), {})])
def test_a_network_with_a_forward_of_its_own_is_not_cut_into_parts(kind):
    network = kind(scale=2, n_resblocks=1, n_feats=8).eval()
    with torch.no_grad():
        lr = torch.rand(1, 3, 40, 40) * 255
        assert torch.equal(super_resolve(network, lr, scale=2), network(lr))
        with pytest.raises(TypeError, match="has a forward.* of its own, .* put it into body_feature and upsample"):
            super_resolve(network, lr, scale=2, chop_size=32)
    student = quantize(EDSR(scale=2, n_resblocks=1, n_feats=8), QuantConfig(4))
    with pytest.raises(TypeError, match="has a forward"):
        Distillation(network, Schedule(student, dynamic_ratio=0.5))
