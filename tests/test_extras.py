"""What requirements.txt names is enough to train and test; other programs say what they lack."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from quant.deploy.packed import write_packed
from trainer import Trainer
from utility import UserError

ROOT = Path(__file__).resolve().parents[1]
TINY = ("--cpu --n_threads 0 --scale 2 --n_feats 8 --n_resblocks 1 --patch_size 16 --batch_size 2 --test_every 1 "
        "--epochs 1 --data_range 1-5/6-6 --data_test Tiny --ext img")
WITHOUT = """
import runpy, sys
for name in ("safetensors", "onnx", "onnxruntime", "tensorboard", "torch.utils.tensorboard", "imageio"):
    sys.modules[name] = None
sys.path.insert(0, {root!r})
for argv in {commands!r}:
    sys.argv = argv
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
"""


def run(folder, *commands):
    script = WITHOUT.format(root=str(ROOT), commands=[shlex.split(command) for command in commands])
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)


def test_training_and_testing(tmp_path, tiny_data):
    (tmp_path / "work").mkdir()
    flags = f"{TINY} --dir_data {tiny_data} --save run"
    done = run(tmp_path / "work", f"main_ori {flags}", f"main_limitrange_incremental {flags} --k_bits 4 --epochs 2",
               f"main_limitrange_incremental {flags} --k_bits 4 --test_only")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no curves for TensorBoard") == 2


@pytest.mark.parametrize("command, told", [
    ("quant.export --help", "error: exported files need the package onnx; pip install -r requirements-deploy.txt"),
    ("quant.verify --help", "error: exported files need the package onnx; pip install -r requirements-deploy.txt"),
    ("main_limitrange_incremental {tiny} --k_bits 4 --test_only --refine {packed}", "pip install"),
])
def test_what_is_missing_is_named(tmp_path, tiny_data, command, told):
    packed = ROOT / "pretrained" / "edsr_x4_4bit.safetensors"
    done = run(tmp_path, command.format(tiny=f"{TINY} --dir_data {tiny_data}", packed=packed))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert told in done.stderr and len(done.stderr.splitlines()) == 1


def test_packing_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="a.safetensors: to write it, pip install "):
        write_packed(None, "a.safetensors", source=None)


@pytest.mark.parametrize("reason, told", [
    ("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: ('nowhere',)\nMore",
     "--compile: No working C++ compiler found; install what is missing, or leave the flag out"),
    ("TritonMissing: Cannot find a working triton installation. Either the package is not installed\nMore",
     "--compile: TritonMissing: Cannot find a working triton installation")])
def test_a_compiler_that_is_not_there_is_told(launch, monkeypatch, capsys, reason, told):
    def fit(trainer):
        raise RuntimeError(f"backend='inductor' raised:\n{reason}")

    monkeypatch.setattr(Trainer, "fit", fit)
    assert launch("--compile") == 2
    assert f"error: {told}" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="raised"):
        launch("")
