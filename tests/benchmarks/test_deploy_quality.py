"""The comparison of deployed forms, on a tiny network."""

import json

import pytest
import torch

from benchmarks import deploy_quality
from model import NETWORKS
from quant import QuantConfig, quantize
from quant.deploy.packed import write_packed


@pytest.fixture
def quantized(tmp_path):
    """A packed 4-bit EDSR x2 whose bounds come from noise."""
    torch.manual_seed(0)
    network = quantize(NETWORKS["edsr"](scale=2, n_resblocks=1, n_feats=8), QuantConfig(4)).train()
    with torch.no_grad():
        network(torch.rand(2, 3, 16, 16) * 255)
    torch.save(network.state_dict(), tmp_path / "source.pt")
    write_packed(network.eval(), tmp_path / "x2.safetensors", source=tmp_path / "source.pt")
    return tmp_path / "x2.safetensors"


def test_each_form_is_measured(quantized, tiny_data, capsys):
    calib = tiny_data / "DIV2K" / "DIV2K_train_LR_bicubic" / "X2"
    flags = [str(quantized), "--dir_data", str(tiny_data), "--data_test", "Tiny", "--calib", str(calib)]
    assert deploy_quality.main([*flags, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert (one["model"], one["scale"], one["k_bits"], one["set"]) == ("edsr", 2, 4, "Tiny")
    assert one["equal"]["packed"] == 1 and one["psnr"]["packed"] == one["psnr"]["PyTorch"]
    assert one["equal"]["fp32"] > 0.9 and abs(one["psnr"]["int8"] - one["psnr"]["PyTorch"]) < 0.5
    assert 0 < one["bytes"]["packed"] < one["bytes"]["fp32"]
    deploy_quality.main(flags)
    assert "| edsr x2 | 4 |" in capsys.readouterr().out
