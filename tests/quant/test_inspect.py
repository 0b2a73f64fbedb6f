import numpy as np
import pytest
import torch

from data.images import write_png
from model import NETWORKS
from quant import QuantConfig, quantize
from quant.activation import quantizers
from quant.inspect import main, record
from utility import UserError


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = quantize(NETWORKS["edsr"](scale=2, n_feats=8, n_resblocks=1), QuantConfig(4))
    for quantizer in quantizers(network).values():
        quantizer.set_dynamic(True)
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 8, 8) * 255)
    return network.eval()


def images(*levels):
    rng = np.random.default_rng(0)
    return [(rng.random((12, 10, 3)) * level).astype(np.uint8) for level in levels]


def test_record_counts_every_feature_and_what_is_clipped(network):
    quantizer = quantizers(network)["body.0.act1"]
    quantizer.set_dynamic(False)
    seen = []
    quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    row = record(network, images(255, 30))["body.0.act1"]
    features = torch.cat([x.flatten() for x in seen[:2]])
    assert row.counts.sum() == len(features)
    assert (row.low, row.high) == (features.min(), features.max())
    lower, upper = quantizer.alpha_lower.item(), quantizer.alpha_upper.item()
    assert row.bounds == [(lower, upper)] * 2
    assert row.clipped[0] == pytest.approx(((seen[0] < lower) | (seen[0] > upper)).float().mean().item())


def test_a_gates_bounds_differ_between_images(network):
    row = record(network, images(255, 30))["body.0.act1"]
    assert row.dynamic and row.bounds[0] != row.bounds[1]


def test_pictures_of_a_run(launch, experiments, tmp_path, capsys):
    assert launch("--epochs 6 --save q", quantized=True) == 0
    for index, image in enumerate(images(255, 200)):
        write_png(tmp_path / "lr" / f"{index}.png", image)
    write_png(tmp_path / "out" / "mine.png", image)
    assert main([str(experiments / "q"), "--images", str(tmp_path / "lr"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "bounds.png").stat().st_size > 0
    out = capsys.readouterr().out
    assert "body.0.act3" in out and f"pictures: {tmp_path / 'out' / 'bounds.png'}" in out and "mine.png" not in out
    (tmp_path / "out" / "gates.png").touch()  # it would pass for that of a network without gates
    assert launch("--epochs 2 --first_stage_epoch 5 --save static", quantized=True) == 0
    assert main([str(experiments / "static"), "--images", str(tmp_path / "lr"), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "gates.png").exists()
    (tmp_path / "out" / "gates.png").write_bytes(b"another program's")
    command = [str(experiments / "static"), "--images", str(tmp_path / "lr"), "--out", str(tmp_path / "out")]
    assert main([*command, "--force"]) == 0
    assert (tmp_path / "out" / "gates.png").read_bytes() == b"another program's"
    (tmp_path / "out" / "gates.png").unlink()
    with pytest.raises(UserError, match="--out .*mine.png: is no folder"):
        main([*command[:-1], str(tmp_path / "out" / "mine.png")])
    (tmp_path / "lr" / "2.png").write_text("no picture")
    assert main([str(experiments / "q"), "--images", str(tmp_path / "lr"), "--out", str(tmp_path / "out")]) == 1
    (tmp_path / "lr" / "0.png").rename(tmp_path / "lr" / "bounds.png")
    with pytest.raises(UserError, match="bounds.png: would overwrite what is read"):
        main([str(experiments / "q"), "--images", str(tmp_path / "lr"), "--out", str(tmp_path / "lr"), "--force"])


def test_what_cannot_be_inspected_is_named(launch, experiments, tmp_path):
    assert launch("--save full") == 0
    with pytest.raises(UserError, match="full-precision"):
        main([str(experiments / "full")])
    torch.save({"a.alpha_upper": torch.ones(1)}, tmp_path / "plain.pt")
    with pytest.raises(UserError, match="--model, --scale and --k_bits"):
        main([str(tmp_path / "plain.pt")])


@pytest.mark.parametrize("flags", [[""], ["x.pt", "--out", ""], ["x.pt", "--images", ""]])
def test_an_empty_name_is_no_folder(flags, capsys):
    with pytest.raises(SystemExit):
        main(flags)
    assert "is empty; name a file or folder" in capsys.readouterr().err
