"""Networks and quantizers added from outside, those of helpers/added_parts.py, do all that the project's own do."""

import copy
import json

import pytest
import torch
from added_parts import add_all

import model.registry
import model.settings
import quant.methods
from model import NETWORKS
from model.inference import super_resolve
from model.registry import register
from quant import QuantConfig, blocks, cost, export, open_network, pack, quantize
from quant.activation import quantizers
from quant.distill import parameter_groups
from utility import UserError

PARTS = [("ESPCN", "ddtb"), ("rcan", "ddtb"), ("EDSR", "stepsize"), ("RCAN", "stepsize")]


@pytest.fixture(autouse=True)
def added():
    """The registries hold the added parts, for this file's tests alone."""
    registries = (model.registry.NETWORKS, model.settings.SETTINGS, quant.methods.METHODS, blocks.BLOCKS,
                  blocks.STAYS_FLOAT)
    before = [copy.copy(registry) for registry in registries]
    add_all()
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


def last_score(folder):
    return json.loads((folder / "eval.txt").read_text().splitlines()[-1])["psnr"]


@pytest.mark.parametrize(("network", "quantizer"), PARTS)
def test_trains_resumes_tests_packs_and_counts(network, quantizer, launch, experiments, capsys):
    flags = f"--model {network} --quantizer {quantizer} --first_stage_epoch 2"
    assert launch(f"--model {network} --save full") == 0
    assert launch(f"{flags} --epochs 2 --save run --pre_train ../experiment/full", quantized=True) == 0
    assert launch(f"{flags} --epochs 3 --load run", quantized=True) == 0
    trained = last_score(experiments / "run")
    latest = experiments / "run" / "model" / "checkpoint.pth.tar"
    assert launch(f"{flags} --test_only --refine {latest} --save tested", quantized=True) == 0
    assert last_score(experiments / "tested") == trained
    tool = f"--model {network} --scale 2 --k_bits 4 --n_feats 8 --n_resblocks 1 --quantizer {quantizer}".split()
    assert pack.main([*tool, "--refine", str(latest), "--out", "x.safetensors"]) in (0, None)
    assert launch(f"{flags} --test_only --refine x.safetensors --save packed", quantized=True) == 0
    assert last_score(experiments / "packed") == trained
    capsys.readouterr()
    assert cost.main([*tool, "--refine", str(latest), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["costs"]["4 bit"]["per_output_pixel"]["bops"] > 0


@pytest.mark.parametrize("name", ["espcn", "rcan"])
def test_a_network_without_lowering_is_told_in_one_line(name, launch, experiments, capsys):
    assert launch(f"--model {name} --epochs 2 --first_stage_epoch 2 --save run", quantized=True) == 0
    with pytest.raises(UserError, match="can be trained, tested and packed, not exported"):
        export.main([*f"--model {name} --scale 2 --k_bits 4 --n_feats 8 --n_resblocks 1".split(), "--refine",
                     "../experiment/run", "--out", "x.onnx"])


def test_attention_stays_float_and_its_mean_is_the_whole_images_in_tiles():
    torch.manual_seed(0)
    network = quantize(NETWORKS["rcan"](scale=2), QuantConfig(4)).train()
    network(torch.rand(2, 3, 16, 16) * 255)
    assert not any("attention" in name for name in quantizers(network))
    assert type(network.body[0].blocks[0].attention.squeeze) is torch.nn.Conv2d
    lr = torch.rand(1, 3, 70, 65) * 255
    with torch.no_grad():
        whole = super_resolve(network.eval(), lr, scale=2)
        tiled = super_resolve(network, lr, scale=2, chop_size=32)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-3 * whole.abs().max().item())


def test_a_step_size_learns_at_the_bounds_rate():
    network = quantize(NETWORKS["espcn"](scale=2), QuantConfig(4, "stepsize", start_step="largest"))
    others, bounds = parameter_groups(network, bound_lr=0.5)
    steps = {id(quantizer.step) for quantizer in quantizers(network).values()}
    assert {id(parameter) for parameter in bounds["params"]} == steps and bounds["lr"] == 0.5
    assert not steps & {id(parameter) for parameter in others["params"]}


def test_their_own_flags_reach_them(launch, experiments, capsys):
    flags = "--model rcan --n_resgroups 1 --quantizer stepsize --start_step largest --k_bits 4"
    assert launch(f"{flags} --epochs 2 --first_stage_epoch 2 --save run", quantized=True) == 0
    network = open_network(experiments / "run")
    assert len(network.body) == 1
    assert {quantizer.start_step for quantizer in quantizers(network).values()} == {"largest"}
    assert "start_step: largest" in (experiments / "run" / "config.txt").read_text()
    capsys.readouterr()
    assert launch("--k_bits 4 --start_step largest --save other", quantized=True) == 2
    assert "--start_step largest: is stepsize's; --quantizer ddtb has no such setting" in capsys.readouterr().err


def test_a_network_derived_from_another_keeps_its_own_name():
    class Mine(NETWORKS["edsr"]):
        pass

    register(Mine)
    assert model.name_of(Mine(scale=2, n_resblocks=1, n_feats=8)) == "mine"


def test_a_network_that_forgets_a_setting_is_refused(launch):
    class Forgetful(NETWORKS["edsr"]):
        def __init__(self, *, scale: int, n_feats: int = 8, n_resblocks: int = 1, res_scale: float = 1.0) -> None:
            super().__init__(scale=scale, n_feats=n_feats, n_resblocks=n_resblocks)
            del self.settings["res_scale"]

    register(Forgetful)
    with pytest.raises(TypeError, match="Forgetful: super.* lacks res_scale"):
        launch("--model forgetful")


def test_an_upsampler_that_is_no_part_of_the_network_is_told(launch):
    class Renamed(NETWORKS["edsr"]):
        UPSAMPLER = ("head", "up")

        def __init__(self, *, scale: int, n_feats: int = 8, n_resblocks: int = 1) -> None:
            super().__init__(scale=scale, n_feats=n_feats, n_resblocks=n_resblocks)

    register(Renamed)
    with pytest.raises(TypeError, match="Renamed: UPSAMPLER names up, which is no part of it"):
        launch("--model renamed")


def test_a_name_that_is_taken_is_refused():
    class BNSRResNet(NETWORKS["edsr"]):
        pass

    for kind, name in ((NETWORKS["edsr"], "edsr"), (BNSRResNet, "bnsrresnet")):
        with pytest.raises(ValueError, match=f"network {name}: is registered already"):
            register(kind)
