"""The compared methods and DDTB's ablations from the command line: train, test, and what goes wrong."""

import json

import pytest

from model.torch_file import read_torch_file
from quant.methods import METHODS

COMPARED = [name for name in METHODS if name != "ddtb"]
FLAGS = {**{name: f"--quantizer {name}" for name in COMPARED},
         "symmetric": "--bounds symmetric", "random": "--dynamic_choice random", "no gates": "--dynamic_ratio 0",
         "no staged start": "--first_stage_epoch 2"}


def last_score(folder):
    return json.loads((folder / "eval.txt").read_text().splitlines()[-1])["psnr"]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("model", ["edsr", "srresnet"])
def test_trains_and_tests_the_same(flags, model, launch, experiments):
    flags = f"--model {model} {flags} --save run"
    assert launch(f"{flags} --epochs 3", quantized=True) == 0
    trained = last_score(experiments / "run")
    latest = experiments / "run" / "model" / "checkpoint.pth.tar"
    assert launch(f"{flags} --test_only --refine {latest}", quantized=True) == 0
    assert last_score(experiments / "run") == trained


@pytest.mark.parametrize("name", COMPARED)
def test_rdn_passes_its_parts(name, launch, experiments):
    assert launch(f"--model rdn --G0 8 --RDNconfig A --quantizer {name} --epochs 2 --test_every 1 --save run",
                  quantized=True) == 0


@pytest.mark.parametrize(("flag", "trained", "tested"), [("quantizer", "pams", "ddtb"), ("quantizer", "ddtb", "pact"),
                                                         ("bounds", "symmetric", "dual")])
def test_a_checkpoint_of_another_method_is_told(flag, trained, tested, launch, experiments, capsys):
    assert launch(f"--{flag} {trained} --epochs 2 --save run", quantized=True) == 0
    capsys.readouterr()
    assert launch(f"--{flag} {tested} --test_only --refine ../experiment/run", quantized=True) == 2
    assert f"was trained for --{flag} {trained} (asked for: {tested}); leave out" in capsys.readouterr().err


def test_without_staged_start_gates_are_applied_from_the_second_epoch(launch, experiments):
    assert launch("--first_stage_epoch 2 --epochs 2 --save run", quantized=True) == 0
    checkpoint = read_torch_file(experiments / "run" / "model" / "checkpoint.pth.tar")
    assert checkpoint["phase"] == "dynamic"
    assert (experiments / "run" / "model" / "model_best.pth.tar").exists()


@pytest.mark.parametrize("flags", ["--first_stage_epoch 1", "--bounds symmetric --quantizer pams",
                                   "--quantizer pams --k_bits 32"])
def test_flags_that_do_not_go_together(flags, launch, capsys):
    assert launch(flags, quantized=True) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {' '.join(flags.split()[:2])}: ")
