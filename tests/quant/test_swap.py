import copy

import numpy as np
import pytest
import torch
from torch import nn

import model
from model.edsr import EDSR, ResBlock
from model.rdn import RDN, DenseBlock, GlobalFusion
from model.srresnet import BNResBlock
from quant import Phase, QuantConfig, is_quantized, quantize, set_phase
from quant.activation import quantizers
from quant.blocks import BLOCKS, QuantResBlock
from quant.functional import fake_quantize
from quant.weight import QuantConv2d, quantize_percentile
from utility import UserError

NETWORKS = ["edsr", "srresnet", "rdn"]
CONFIG = QuantConfig(4)


def image(n=2, size=8, dtype=torch.float32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype) * 255


@pytest.fixture(params=NETWORKS)
def network(request, small_network):
    """Full precision, in evaluation mode."""
    return small_network(request.param, k_bits=32)


@pytest.mark.parametrize("name", ["edsr", "srresnet"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_swapped_but_off_is_full_precision_to_the_bit(small_network, name, scale):
    network = small_network(name, scale, k_bits=32)
    expected = network.forward_features(image())
    quantize(network, CONFIG)
    set_phase(network, Phase.CALIBRATE)
    for ours, theirs in zip(network.forward_features(image()), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_rdn_off_has_the_releases_quantized_weights_and_full_precision_features(small_network):
    network = small_network("rdn", k_bits=32)
    rounded = copy.deepcopy(network)
    quantize(network, CONFIG)
    set_phase(network, Phase.CALIBRATE)
    convs = {name: module for name, module in network.named_modules() if isinstance(module, QuantConv2d)}
    for name, conv in convs.items():
        rounded.get_submodule(name).weight.data = conv.quantized_weight().detach()
    assert torch.equal(network(image()), rounded(image()))


@pytest.mark.parametrize("phase", [Phase.STATIC, Phase.DYNAMIC])
def test_swapped_and_on_is_not_full_precision(network, phase):
    expected = network(image())
    set_phase(quantize(network, CONFIG), phase)
    assert not torch.equal(network(image()), expected)


def test_parameters_are_the_very_same(network):
    before = dict(network.named_parameters())
    assert quantize(network, CONFIG) is network
    after = dict(network.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    own = {name.rsplit(".act", 1)[-1].split(".", 1)[1] for name in after.keys() - before.keys()}
    assert own == {"alpha_upper", "alpha_lower", "gate.reduce.weight", "gate.norm.weight", "gate.norm.bias",
                   "gate.expand.weight"}


def test_full_precision_keys_stay(network):
    before = network.state_dict()
    after = quantize(network, CONFIG).state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert list(key for key in after if key in before) == list(before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_mode_move_along(network, dtype, training):
    quantize(network.to(dtype).train(training), CONFIG)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {dtype, torch.int64, torch.bool}
    assert {module.training for module in network.modules()} == {training}
    network.train()
    sr = network(image(dtype=dtype))
    sr.sum().backward()
    assert sr.dtype == dtype and torch.isfinite(sr).all()


def test_device_moves_along():
    with torch.device("meta"):
        network = EDSR(scale=2, n_resblocks=1, n_feats=4)
    quantize(network, CONFIG)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_device_moves_along_to_a_gpu(network):
    quantize(network.cuda(), CONFIG)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cuda"}
    network(image().cuda())


def test_mixed_modes_stay(small_network):
    network = small_network("srresnet", k_bits=32)
    network.residual[0].train()
    quantize(network, CONFIG)
    assert {module.training for module in network.residual[0].modules()} == {True}
    assert {module.training for module in network.residual[1].modules()} == {False}


def test_frozen_parameters_stay_frozen(small_network):
    network = quantize(small_network("edsr", k_bits=32).requires_grad_(False), CONFIG)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained and all(".act" in name for name in trained)


def test_the_teacher_copied_before_stays_as_it_was(network):
    teacher = copy.deepcopy(network)
    expected = teacher(image())
    quantize(network, CONFIG)
    assert not is_quantized(teacher) and torch.equal(teacher(image()), expected)


def test_twice_is_refused(network):
    quantize(network, CONFIG)
    assert is_quantized(network) and network.quant_config == CONFIG
    with pytest.raises(ValueError, match="quantized already"):
        quantize(network, CONFIG)


def test_nothing_to_do_is_refused():
    with pytest.raises(ValueError, match="Sequential holds no block to quantize"):
        quantize(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()), CONFIG)


def test_a_wrapper_is_refused(small_network):
    network = small_network("edsr", k_bits=32)
    for wrapper in (nn.DataParallel(network), nn.Sequential(network, nn.Conv2d(3, 3, 3))):
        with pytest.raises(ValueError, match="holds a SuperResolver; quantize that, then wrap it"):
            quantize(wrapper, CONFIG)
    assert not is_quantized(network)


def test_a_config_can_not_be_changed_behind_a_networks_back(small_network):
    network = quantize(small_network("edsr", k_bits=32), config := QuantConfig(np.int64(4)))
    with pytest.raises(AttributeError):
        config.k_bits = 2
    assert network.quant_config.to_dict()["k_bits"] == 4 and type(config.k_bits) is int


@pytest.mark.parametrize("name, config, error", [("srresnet", QuantConfig(4, skip_bits=8), "--skip_bits 8"),
                                                 ("edsr", CONFIG, "make it a Parameter first")])
def test_what_is_refused_is_left_as_it_was(small_network, name, config, error):
    network = small_network(name, k_bits=32)
    if name == "edsr":
        nn.utils.parametrizations.weight_norm(network.body[1].body[2])
    before = network(image())
    with pytest.raises((UserError, ValueError), match=error):
        quantize(network, config)
    assert not is_quantized(network) and torch.equal(network(image()), before)


def test_an_average_of_weights_applies_the_gates_that_it_copies(network):
    student = quantize(network, CONFIG)
    average = torch.optim.swa_utils.AveragedModel(student, use_buffers=True)
    for quantizer in quantizers(student).values():
        quantizer.set_dynamic(True)
    student.train()(image())
    average.update_parameters(student)
    for each in (average, student):
        set_phase(each, Phase.DYNAMIC)
    with torch.no_grad():
        torch.testing.assert_close(average.eval()(image()), student.eval()(image()))
    assert all(quantizer.gated and quantizer.bounds_set for quantizer in quantizers(average).values())


def test_an_unknown_block_is_refused_before_anything_changes():
    class Foreign(nn.Module):
        def forward(self, x):
            return x

    network = EDSR(scale=2, n_resblocks=1, n_feats=4)
    network.tail.append(Foreign())
    with pytest.raises(ValueError, match="2: no quantized form is registered for Foreign"):
        quantize(network, CONFIG)
    assert not is_quantized(network)


def test_a_subclass_of_a_known_block_is_unknown():
    class Changed(ResBlock):
        pass

    with pytest.raises(ValueError, match="Changed"):
        quantize(nn.Sequential(Changed(4), ResBlock(4)), CONFIG)


@pytest.mark.parametrize("k_bits", [1, 9, 32])
def test_other_bit_widths_are_refused(k_bits):
    with pytest.raises(ValueError, match=f"k_bits {k_bits}"):
        QuantConfig(k_bits)


def test_every_block_is_replaced_by_its_quantized_form():
    blocks = [ResBlock(4), BNResBlock(4), DenseBlock(4, 4, 2, 3), GlobalFusion(4, 2, 3)]
    assert {type(block) for block in blocks} == set(BLOCKS)
    for block, quantized in zip(blocks, quantize(nn.Sequential(*blocks), CONFIG), strict=True):
        assert type(quantized) is BLOCKS[type(block)] and is_quantized(quantized)
        assert {id(p) for p in block.parameters()} <= {id(p) for p in quantized.parameters()}


@pytest.mark.parametrize("res_scale", [1, 0.1])
def test_edsr_block_as_published(res_scale):
    torch.manual_seed(0)
    block = ResBlock(6, res_scale)
    (conv1, _, conv2), x = block.body, torch.randn(2, 6, 5, 5)
    quantized = QuantResBlock(block, CONFIG)
    set_phase(quantized, Phase.STATIC)
    y = quantized(x)

    def act(member, value):
        return fake_quantize(value, member.alpha_lower, member.alpha_upper, 4)

    def convolve(conv, value):
        return nn.functional.conv2d(value, quantize_percentile(conv.weight, 4), conv.bias, padding=1)

    hidden = act(quantized.act2, convolve(conv1, x).relu())
    assert torch.equal(y, act(quantized.act3, convolve(conv2, hidden) * res_scale) + act(quantized.act1, x))


def test_number_of_quantizers():
    """48, 32, and RDN's 161 less the 16 that the release keeps but never runs."""
    found = {name: len(quantizers(quantize(kind(scale=2), CONFIG))) for name, kind in model.NETWORKS.items()}
    assert found == {"edsr": 48, "srresnet": 32, "rdn": 145}


@pytest.mark.parametrize("settings", [{"n_resblocks": 3, "n_feats": 16}, {"n_resblocks": 1, "n_feats": 4},
                                      {"n_resblocks": 32, "n_feats": 8}])
def test_edsr_of_other_sizes_trains(settings):
    assert_trains(quantize(EDSR(scale=2, **settings), CONFIG))


def test_rdn_config_a_trains():
    network = quantize(RDN(scale=2, G0=8, RDNconfig="A"), QuantConfig(2))
    assert len(quantizers(network)) == 20 * 7 + 1
    assert_trains(network)


@pytest.mark.parametrize("k_bits", range(2, 9))
def test_a_batch_of_one_trains(small_network, k_bits):
    for name in NETWORKS:
        assert_trains(small_network(name, k_bits=k_bits), n=1)


def assert_trains(network, n=2):
    """A step by every parameter that takes part leaves a network that gives finite images."""
    network.train()
    network(image(n)).square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    torch.optim.Adam(network.parameters(), lr=1e-3).step()
    assert torch.isfinite(network.eval()(image(n))).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_test_of_a_batch_is_test_of_each_image(small_network, name):
    network = small_network(name, k_bits=5).double()  # last bits, which the batch's size changes, decide no level
    lr = image(3, dtype=torch.float64)
    with torch.no_grad():
        one_by_one = torch.cat([network(picture[None]) for picture in lr])
        torch.testing.assert_close(network(lr), one_by_one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_kept_weights_change_nothing(small_network, name):
    network = small_network(name)
    expected = network(image()).detach()
    with torch.no_grad():
        assert torch.equal(network(image()), expected) and torch.equal(network(image()), expected)


def bits_of_features(network):
    return {name: quantizer.k_bits for name, quantizer in quantizers(network).items()}


def test_features_that_feed_sums_can_have_other_bits():
    config = QuantConfig(2, skip_bits=8)
    edsr = bits_of_features(quantize(model.NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=4), config))
    assert edsr == {"body.0.act1": 8, "body.0.act2": 2, "body.0.act3": 8}
    rdn = bits_of_features(quantize(model.NETWORKS["rdn"](scale=2, RDNconfig="A", G0=4), config))
    assert {name for name, bits in rdn.items() if bits == 8} == {f"RDBs.{i}.skip" for i in range(20)}
    with pytest.raises(UserError, match="--skip_bits 8: the skips of SRResNet are not quantized"):
        quantize(model.NETWORKS["srresnet"](scale=2, n_resblocks=1, n_feats=4), config)


@pytest.mark.parametrize("name", ["edsr", "rdn"])
def test_sums_of_other_bits_train(name):
    torch.manual_seed(0)
    network = model.NETWORKS[name](scale=2, **{"edsr": {"n_resblocks": 1, "n_feats": 4}, "rdn": {"G0": 4}}[name])
    assert_trains(quantize(network, QuantConfig(2, skip_bits=8)))


class Tripled(nn.Conv2d):
    def forward(self, x):
        return 3 * super().forward(x)


def tripled(network):
    network.body[0].body[0].__class__ = Tripled


def twice(network):
    network.body[1] = network.body[0]


def hooked(network):
    network.body[0].body[2].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("change, message", [
    (tripled, "Tripled: has no quantized form"), (twice, "a block stands in two places"), (hooked, "0: has hooks")])
def test_what_a_quantized_form_would_lose_is_refused(small_network, change, message):
    network = small_network("edsr", k_bits=32)
    change(network)
    with pytest.raises(ValueError, match=message):
        quantize(network, CONFIG)
    assert not is_quantized(network)


def test_frozen_norms_stay_frozen(small_network):
    network = small_network("srresnet", k_bits=32).train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms[:1]:
        norm.eval()
    quantize(network, CONFIG)
    assert [norm.training for norm in norms] == [False, *[True] * (len(norms) - 1)]
    assert all(quantizer.training for quantizer in quantizers(network).values())


@pytest.mark.parametrize("config", [4, {"k_bits": 4}])
def test_a_config_that_is_none_is_refused(small_network, config):
    with pytest.raises(TypeError, match="give a QuantConfig, as QuantConfig"):
        quantize(small_network("edsr", k_bits=32), config)


def test_no_skip_bits_are_0(small_network):
    with pytest.raises(ValueError, match="None: 2 to 8 are possible"):
        QuantConfig(4, skip_bits=None)


def test_a_phase_goes_by_its_name_too(small_network):
    network = small_network("edsr")
    for phase in Phase:
        set_phase(network, phase.value)
        assert all(quantizer.phase is phase for quantizer in quantizers(network).values())
    with pytest.raises(ValueError, match="dynamik"):
        set_phase(network, "dynamik")
