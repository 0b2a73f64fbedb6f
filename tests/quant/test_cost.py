import contextlib
import json

import pytest

from model import NETWORKS
from quant import Phase, QuantConfig, cost, quantize, set_phase
from quant.activation import quantizers
from utility import run_main


@pytest.mark.parametrize(("name", "scale", "parameters", "macs"), [
    ("edsr", 4, 1_517_595, 114.2e9), ("edsr", 2, 1_369_883, 316.3e9), ("rdn", 4, 22_271_107, 1309.2e9),
])
def test_full_precision_is_as_published(name, scale, parameters, macs):
    """Parameters of the networks; multiplications for a 1280x720 output as papers state them for these networks."""
    found = cost.summary(NETWORKS[name](scale=scale))
    assert found["parameters"] == parameters
    assert found["storage_bytes"] == 4 * parameters
    assert found["per_output"]["macs"] == pytest.approx(macs, rel=1e-3)
    assert found["per_output"]["bops"] == found["per_output"]["macs"] * 32 * 32
    assert found["gates"]["gates"] == 0


def test_a_network_that_is_measured_sees_no_image_and_stays_in_its_mode():
    network = quantize(NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=4), QuantConfig(4)).train()
    set_phase(network, Phase.CALIBRATE)
    cost.summary(network)
    assert network.training and not any(one.observations for one in quantizers(network).values())


def test_one_block_by_hand():
    """EDSR x2 with one block of 4 features: the block's two convolutions are 4*4*9 MACs an LR pixel each."""
    network = quantize(NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=4), QuantConfig(4))
    costs = {one.name: one for one in cost.conv_costs(network)}
    first, second = costs["body.0.body.0"], costs["body.0.body.2"]
    assert first.macs == second.macs == 4 * 4 * 9 / 4
    assert first.bops("product") == 36 * 16 and first.bops("product", as_run=True) == 36 * 4 * 32
    assert second.bops("product", as_run=True) == 36 * 16
    assert second.bops("accumulated") == pytest.approx(36 * (16 + 8 + 5.169925))
    assert costs["tail.1"].macs == 4 * 3 * 9 and costs["tail.1"].bits == 32


def test_storage_counts_bits():
    network = NETWORKS["edsr"](scale=2, n_resblocks=2, n_feats=8)
    full = cost.summary(network)["storage_bytes"]
    low = cost.summary(quantize(network, QuantConfig(2)))["storage_bytes"]
    bounds = 6 * 2 * 4
    assert low == full - 4 * 8 * 8 * 9 * 30 / 8 + bounds


def test_gates_are_counted_apart():
    network = quantize(NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=8), QuantConfig(4))
    before = cost.summary(network)
    next(iter(quantizers(network).values())).set_dynamic(True)
    after = cost.summary(network)
    weights = 8 * 32 + 32 * 2
    assert after["gates"] == {"gates": 1, "parameters": weights + 128, "bits": weights * 2 + 128 * 32,
                              "macs_per_image": weights, "additions_per_lr_pixel": 8}
    assert {**after, "gates": None} == {**before, "gates": None}


def test_command_line(capsys):
    flags = ["--model", "SRResNet", "--scale", "2", "--k_bits", "3", "--n_resblocks", "1", "--n_feats", "8",
             "--dynamic_ratio", "0.5"]
    assert run_main(lambda: cost.main(flags)) == 0
    assert "BOPs as run" in capsys.readouterr().out
    assert run_main(lambda: cost.main([*flags, "--json", "--output", "64x32", "--formula", "accumulated"])) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["costs"]["3 bit"]["gates"]["gates"] == 1 and found["output"] == [64, 32]
    assert found["costs"]["3 bit"]["per_output"]["bops"] < found["costs"]["full precision"]["per_output"]["bops"]
    assert run_main(lambda: cost.main([*flags, "--output", "big"])) == 2


@pytest.mark.parametrize(("flags", "told"), [
    ("--quantizer pams --skip_bits 8", "--quantizer: is for quantized networks; add --k_bits"),
    ("--refine ", "--refine"), ("--refine x.pt --dynamic_ratio 0.9", "--dynamic_ratio 0.9: --refine says which gates")])
def test_flags_that_would_be_lost_are_refused(flags, told, capsys):
    with contextlib.suppress(SystemExit):
        assert run_main(lambda: cost.main(["--model", "edsr", "--scale", "4", *flags.split(" ")])) == 2
    assert told in capsys.readouterr().err


def test_flags_of_other_networks_are_told(capsys, caplog):
    caplog.set_level("INFO")
    assert run_main(lambda: cost.main("--model srresnet --scale 4 --res_scale 0.1 --k_bits 4".split())) == 0
    assert "--model srresnet: --res_scale 0.1 has no effect on this network" in caplog.text


def test_a_formula_that_is_none_is_refused():
    with pytest.raises(ValueError, match="formula 'uniq': choose product or accumulated"):
        cost.summary(NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=4), formula="uniq")
