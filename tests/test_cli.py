"""The programs as users type them: train, quantize, test, resume, released checkpoints."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from released import to_released

from data.images import read_image, write_png
from data.imresize import imresize
from model import NETWORKS
from model.torch_file import read_torch_file
from quant import QuantConfig, quantize

ROOT = Path(__file__).resolve().parents[1]
SMALL = "--cpu --n_threads 0 --test_every 2 --batch_size 2 --print_every 1 --n_feats 8 --n_resblocks 2".split()


def readme_commands():
    """The seed's commands, as the README prints them."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    return [line for line in re.findall(r"^python3? main.*$", text, re.MULTILINE) if "--dir_data ./datasets" in line]


@pytest.fixture
def repository(tmp_path, tiny_data, monkeypatch):
    """A working directory with ./datasets at scale 4 and nothing else; programs are started by their path."""
    work = tmp_path / "ddtb"
    work.mkdir()
    monkeypatch.chdir(work)
    photograph = read_image(tiny_data / "DIV2K" / "DIV2K_train_HR" / "0001.png").repeat(5, 0).repeat(6, 1)
    for folder, name in (("DIV2K/DIV2K_train_", "0001"), ("benchmark/Set5/", "bird"), ("benchmark/Set14/", "zebra"),
                         ("benchmark/B100/", "sea"), ("benchmark/Urban100/", "tower")):
        write_png(Path(f"datasets/{folder}HR/{name}.png"), photograph)
        write_png(Path(f"datasets/{folder}LR_bicubic/X4/{name}x4.png"), imresize(photograph, 0.25))
    return work


def run(command, *more):
    program, *flags = shlex.split(command)[1:]
    return subprocess.run([sys.executable, ROOT / program, *flags, *more], capture_output=True, text=True)


def test_readme_has_the_three_commands():
    assert [command.split()[1] for command in readme_commands()] == [
        "main_ori.py", "main_limitrange_incremental.py", "main_limitrange_incremental.py"]


def test_readme_commands_train_quantize_and_test(repository):
    full, low, test = readme_commands()
    trained = run(full, *SMALL, "--epochs", "1")
    assert trained.returncode == 0, trained.stderr
    Path("pretrained").mkdir()
    network = read_torch_file("../experiment/edsr_baseline_x4/model/model_best.pth.tar")["state_dict"]
    torch.save(network, "pretrained/edsr_baseline_x4.pt")

    quantized = run(low, *SMALL, "--epochs", "6")
    assert quantized.returncode == 0, quantized.stderr
    log = Path("../experiment/output/edsrx4/4bit/log.txt").read_text()
    assert "GATE" in log and "best so far: PSNR" in log

    tested = run(test, *SMALL)
    assert tested.returncode == 0, tested.stderr
    folder = Path("../experiment/output/edsrx4/4bit")
    images = {path.name for path in folder.glob("results-*/*.png")}
    assert images == {f"4bit_{name}_x4_SR.png" for name in ("bird", "zebra", "sea", "tower")}
    assert read_image(folder / "results-Set5" / "4bit_bird_x4_SR.png").shape == \
        read_image("datasets/benchmark/Set5/HR/bird.png").shape
    rows = [json.loads(line) for line in (folder / "eval.txt").read_text().splitlines()]
    assert [row["set"] for row in rows[-4:]] == ["Set5", "Set14", "B100", "Urban100"]
    assert {"config.txt", "log.txt", "eval.txt", "model", "run", "loss_L1.png", "psnr_Set14.png"} <= {
        path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["edsr", "srresnet"])
def test_released_checkpoint_gives_the_images_of_our_own(name, launch, experiments, tiny_data, tmp_path, capsys):
    torch.manual_seed(0)
    network = quantize(NETWORKS[name](scale=2, n_feats=8, n_resblocks=1), QuantConfig(4))
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 8, 8) * 255)
    state = {key: value.reshape(()) if key.endswith(("max_val", "min_val")) else value
             for key, value in to_released(network.state_dict()).items()}
    torch.save({"epoch": 60, "state_dict": state}, tmp_path / "released.pth.tar")

    assert launch(f"--model {name} --test_only --save_results --refine {tmp_path / 'released.pth.tar'}",
                  quantized=True) == 0
    assert "the release's DDTB checkpoint" in capsys.readouterr().out
    lr = torch.from_numpy(read_image(tiny_data / "benchmark" / "Tiny" / "LR_bicubic" / "X2" / "onex2.png")).float()
    with torch.no_grad():
        expected = network.eval()(lr.permute(2, 0, 1)[None])[0].round().clamp(0, 255)
    saved = read_image(experiments / "test" / "results-Tiny" / "4bit_one_x2_SR.png")
    assert torch.equal(torch.from_numpy(saved).permute(2, 0, 1).float(), expected)


def test_test_only_without_a_best_network_uses_the_last_checkpoint(launch, experiments, capsys):
    assert launch("--epochs 2 --save short", quantized=True) == 0
    assert not (experiments / "short" / "model" / "model_best.pth.tar").exists()
    assert launch("--test_only --save short", quantized=True) == 0
    assert "the last checkpoint is used" in capsys.readouterr().out


@pytest.mark.parametrize("flag, quantized", [("--pre_train", False), ("--refine", False), ("--pre_train", True)])
def test_keys_of_another_network_are_listed(flag, quantized, launch, tmp_path, capsys):
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "other.pt")
    assert launch(f"{flag} {tmp_path / 'other.pt'}", quantized=quantized) == 2
    assert "unexpected: layer.weight" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["main_ori.py", "main_limitrange_incremental.py"])
def test_ctrl_c_during_the_imports_ends_a_program(program, tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('goes on')\n")
    ended = subprocess.run([sys.executable, str(ROOT / program), "--help"], capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
