"""Packed and exported networks through the entry points: the same results as the checkpoint they came from."""

import json

import pytest
import torch

from data.images import read_image
from model import NETWORKS
from model.saved import BEST
from quant import export, pack

NETWORK = "--model EDSR --scale 2 --k_bits 4 --n_feats 8 --n_resblocks 1".split()


@pytest.fixture
def trained(launch, experiments):
    assert launch("--epochs 6 --save q", quantized=True) == 0
    return experiments / "q"


def image(experiments, run):
    return read_image(experiments / run / "results-Tiny" / "4bit_one_x2_SR.png")


def test_packed_file_gives_the_checkpoints_results(trained, launch, experiments, tmp_path):
    file = tmp_path / "q.safetensors"
    assert pack.main([*NETWORK, "--refine", str(trained), "--out", str(file)]) == 0
    assert launch(f"--test_only --save_results --save a --refine {trained}", quantized=True) == 0
    assert launch(f"--test_only --save_results --save b --refine {file}", quantized=True) == 0
    assert (image(experiments, "a") == image(experiments, "b")).all()
    first, second = (json.loads((experiments / run / "eval.txt").read_text()) for run in "ab")
    assert first["psnr"] == second["psnr"]


def test_exported_file_is_tested_saved_and_written_down(trained, launch, experiments, tmp_path, capsys):
    file = tmp_path / "q.onnx"
    assert export.main([*NETWORK, "--refine", str(trained), "--out", str(file)]) == 0
    assert launch(f"--test_only --save_results --save a --refine {trained}", quantized=True) == 0
    assert launch(f"--test_only --save_results --save b --refine {file} --backend onnx", quantized=True) == 0
    # sums in another order may put a value of 8 bit beyond .5
    assert abs(image(experiments, "a").astype(int) - image(experiments, "b")).max() <= 1
    tested = {name: json.loads((experiments / name / "eval.txt").read_text()) for name in "ab"}
    assert tested["b"]["k_bits"] == 4 and tested["b"]["backend"] == "onnx" and "backend" not in tested["a"]
    assert [tested[name]["file"] for name in "ab"] == [(trained / BEST).as_posix(), file.as_posix()]
    assert launch(f"--test_only --save c --refine {file} --backend onnx") == 2
    assert "q.onnx: is a quantized network at --k_bits 4" in capsys.readouterr().err


def test_openvino_tests_a_qdq_file(trained, launch, experiments, tmp_path, capsys):
    file = tmp_path / "q.onnx"
    assert export.main([*NETWORK, "--refine", str(trained), "--out", str(file), "--format", "qdq"]) == 0
    assert launch(f"--test_only --save_results --save a --refine {trained}", quantized=True) == 0
    assert launch(f"--test_only --save_results --save b --refine {file} --backend openvino", quantized=True) == 0
    assert abs(image(experiments, "a").astype(int) - image(experiments, "b")).mean() <= 0.5
    assert export.main([*NETWORK, "--refine", str(trained), "--out", str(file), "--force"]) == 0
    assert launch(f"--test_only --refine {file} --backend openvino", quantized=True) == 2
    assert "export it with --format qdq" in capsys.readouterr().err


@pytest.mark.parametrize("flags, told", [
    ("--refine q.onnx --backend onnx", "add --test_only"),
    ("--test_only --backend onnx", "--refine FILE.onnx"),
    ("--test_only --refine q.onnx --backend onnx", "no such file"),
    ("--test_only --refine q.onnx --backend onnx --chop", "quant.upscale"),
])
def test_what_does_not_go_with_a_backend_is_told(flags, told, launch, capsys):
    assert launch(flags, quantized=True) == 2
    assert told in capsys.readouterr().err


def test_a_packed_file_is_trained_on_with_a_teacher(trained, launch, experiments, tmp_path, capsys):
    file = tmp_path / "q.safetensors"
    assert pack.main([*NETWORK, "--refine", str(trained), "--out", str(file)]) == 0
    assert launch(f"--save more --refine {file}", quantized=True) == 2
    assert "q.safetensors: has no teacher in it" in capsys.readouterr().err
    assert not (experiments / "more").exists()
    torch.save(NETWORKS["edsr"](scale=2, n_feats=8, n_resblocks=1).state_dict(), tmp_path / "full.pt")
    assert launch(f"--save more --epochs 2 --refine {file} --pre_train {tmp_path / 'full.pt'}", quantized=True) == 0
    assert launch("--load more --epochs 3", quantized=True) == 0
    assert launch(f"--test_only --refine {experiments / 'more'}", quantized=True) == 0
    assert launch(f"--pre_train {file}") == 2
    assert "is a quantized network" in capsys.readouterr().err
