import pytest
import torch
from filling import filled
from released import to_released

from quant import QuantConfig, quantize
from quant.released_keys import from_released, is_released

GATE = ["atten_c.1.weight", "atten_c.2.weight", "atten_c.2.bias", "atten_c.2.running_mean", "atten_c.2.running_var",
        "atten_c.2.num_batches_tracked", "atten_c.5.weight"]
QUANTIZER = ["alpha_upper", "alpha_lower", "max_val", "min_val", "is_dynamic", *GATE]
NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def keys(*prefixes, leaves):
    return {f"{prefix}.{leaf}" for prefix in prefixes for leaf in leaves}


def edsr_block(i):
    return (keys(f"body.{i}.body.0", f"body.{i}.body.3", leaves=["weight", "bias"])
            | keys(f"body.{i}.quant_act1", f"body.{i}.quant_act2", f"body.{i}.quant_act3", f"body.{i}.body.2",
                   leaves=QUANTIZER))


def srresnet_block(i):
    return (keys(*(f"residual.{i}.{name}" for name in ("conv1", "relu", "conv2")), leaves=["weight"])
            | keys(f"residual.{i}.in1", f"residual.{i}.in2", leaves=NORM)
            | keys(f"residual.{i}.act1", f"residual.{i}.act2", leaves=QUANTIZER))


def rdn_block(i):
    return (keys(*(f"RDBs.{i}.{name}" for name in ("convs.0.conv.0", "convs.1.conv.0", "LFF")),
                 leaves=["weight", "bias"])
            | keys(*(f"RDBs.{i}.{name}" for name in ("act1", "act2", "convs.0.act", "convs.1.act")), leaves=QUANTIZER))


def plain(*prefixes):
    return keys(*prefixes, leaves=["weight", "bias"])


# what the release's state dicts of networks of two blocks hold
RELEASED = {
    "edsr": edsr_block(0) | edsr_block(1) | plain("sub_mean", "add_mean", "head.0", "body.2", "tail.0.0", "tail.1"),
    "srresnet": (srresnet_block(0) | srresnet_block(1) | keys("bn_mid", leaves=NORM)
                 | keys("conv_input", "relu", "conv_mid", "upscale.0", "upscale.2", "conv_output", leaves=["weight"])),
    "rdn": (rdn_block(0) | rdn_block(1) | keys("act", leaves=QUANTIZER)
            | plain("SFENet1", "SFENet2", "GFF.0", "GFF.1", "UPNet.0", "UPNet.2")),
}


@pytest.fixture(params=RELEASED)
def case(request, small_network):
    """(name, quantized network)."""
    return request.param, quantize(small_network(request.param, k_bits=32), QuantConfig(4))


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(dict(ours), dict(theirs), rtol=0, atol=0)


def test_keys_are_the_releases(case):
    name, network = case
    assert set(to_released(network.state_dict())) == RELEASED[name]


def test_to_and_from_is_the_same(case):
    _, network = case
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 8, 8))  # a released file has no bound that isn't initialised
    assert_same(from_released(to_released(network.state_dict())), network.state_dict())


def test_a_released_file_loads_strictly_and_comes_back(case):
    """Names that the release keeps twice, or for quantizers that never run, come back as this program has them."""
    _, network = case
    released = filled(to_released(network.state_dict()))
    network.load_state_dict(from_released(released))
    back = to_released(network.state_dict())
    assert back.keys() == released.keys()
    differ = {key for key, value in released.items() if not torch.equal(back[key], value)}
    assert all(".quant_act2." in key or ".convs.0.act." in key for key in differ)


def test_a_loaded_bound_is_not_started_from_data(case):
    _, network = case
    network.load_state_dict(from_released(filled(to_released(network.state_dict()))))
    before = {name: p.clone() for name, p in network.named_parameters() if "alpha_" in name}
    network.train()(torch.rand(2, 3, 8, 8))
    assert all(torch.equal(dict(network.named_parameters())[name], bound) for name, bound in before.items())


def test_values_go_where_they_belong(case):
    name, network = case
    released = {key: torch.full_like(value, number) for number, (key, value) in
                enumerate(to_released(network.state_dict()).items())}
    ours = from_released(released)
    pairs = {
        "edsr": [("body.1.body.3.weight", "body.1.body.2.weight"), ("body.0.quant_act3.min_val", "body.0.act3.min_val"),
                 ("body.0.quant_act1.atten_c.2.running_var", "body.0.act1.gate.norm.running_var"),
                 ("body.2.weight", "body.2.weight"), ("tail.0.0.bias", "tail.0.0.bias")],
        "srresnet": [("residual.1.act2.atten_c.5.weight", "residual.1.act2.gate.expand.weight"),
                     ("residual.0.conv2.weight", "residual.0.conv2.weight")],
        "rdn": [("act.alpha_upper", "GFF.act.alpha_upper"), ("act.atten_c.1.weight", "GFF.act.gate.reduce.weight"),
                ("RDBs.1.convs.1.act.is_dynamic", "RDBs.1.convs.1.act.is_dynamic"),
                ("RDBs.0.act1.alpha_lower", "RDBs.0.act1.alpha_lower")],
    }
    for theirs, own in pairs[name]:
        assert torch.equal(ours[own], released[theirs]), theirs


@pytest.mark.parametrize("turned_round", [False, True])
def test_of_two_act2_the_one_inside_the_body_wins(small_network, turned_round):
    """The release's own loader reads it last, in whatever order the file has them."""
    network = quantize(small_network("edsr", k_bits=32), QuantConfig(4))
    released = to_released(network.state_dict())
    for key in released:
        if ".quant_act2." in key:
            released[key] = released[key] * 0
            released[key.replace("quant_act2", "body.2")] = torch.ones_like(released[key])
    ours = from_released(dict(reversed(released.items())) if turned_round else released)
    act2 = [value for key, value in ours.items() if ".act2." in key]
    assert len(act2) == 2 * (len(QUANTIZER) + 1) and all((value == 1).all() for value in act2)


def test_scalars_become_vectors(case):
    _, network = case
    released = {key: value.reshape(()) if key.endswith(("max_val", "min_val", "is_dynamic")) else value
                for key, value in to_released(network.state_dict()).items()}
    network.load_state_dict(from_released(released))


def test_first_convolutions_quantizer_of_rdn_is_dropped(small_network):
    network = quantize(small_network("rdn", k_bits=32), QuantConfig(4))
    released = to_released(network.state_dict())
    assert released["RDBs.1.convs.0.act.alpha_upper"] == 10 and released["RDBs.1.convs.0.act.alpha_lower"] == -10
    assert released["RDBs.0.convs.0.act.atten_c.1.weight"].shape == (32, 12, 1, 1)
    assert not any("convs.0.act" in key for key in from_released(released))


def test_only_the_releases_names_are_taken_for_it(case, small_network):
    name, network = case
    assert is_released(to_released(network.state_dict()))
    assert not is_released(network.state_dict())
    assert not is_released(small_network(name, k_bits=32).state_dict())
