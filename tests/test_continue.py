"""A run's options belong to its checkpoint: what continuing and testing take from there, follow, and refuse."""

import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from kill_resume import differences

import main_limitrange_incremental
import main_ori
from data.images import read_image, write_png
from engine import evaluator
from engine.checkpoint import begin_alike, checkpoint_with_options, fingerprint
from engine.recorder import Recorder
from engine.run_folder import RunFolder
from model import NETWORKS, parallel
from model.registry import scale_of
from quant.open import load_weights
from utility import Stopped, UserError, run_main

PROGRAMS = {False: main_ori.main, True: main_limitrange_incremental.main}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    def add_epoch(self, epoch, *, losses, results, rate, scalars):
        psnr = {name: row["psnr"] for name, row in results.items()}
        self.history.append({"epoch": epoch, "rate": rate, "losses": losses, "psnr": psnr})

    monkeypatch.setattr(Recorder, "add_epoch", add_epoch)


@pytest.fixture
def bare(experiments):
    """Function that runs a program with the given flags and no others."""
    return lambda flags, *, quantized=False: run_main(lambda: PROGRAMS[quantized](shlex.split(flags)))


def state_of(experiments, run, name="checkpoint"):
    return torch.load(experiments / run / "model" / f"{name}.pth.tar", weights_only=True)


def change(experiments, run, act):
    """Let act(checkpoint) change the last checkpoint of a run, in place."""
    state = state_of(experiments, run)
    act(state)
    torch.save(state, experiments / run / "model" / "checkpoint.pth.tar")


def last_config(experiments, run):
    block = (experiments / run / "config.txt").read_text().strip().split("\n\n")[-1]
    return dict(line.split(": ", 1) for line in block.splitlines()[1:] if ": " in line)


def test_a_run_that_is_named_is_what_is_tested(bare, launch, experiments, capfd):
    """--pre_train, which EDSR-PyTorch tests, does not come before it."""
    assert launch("--epochs 1 --save base") == 0
    assert launch("--epochs 2 --save run", quantized=True) == 0
    before = (experiments / "run" / "eval.txt").read_text().splitlines()
    capfd.readouterr()
    assert bare(f"--load run --cpu --test_only --pre_train {experiments / 'base'}", quantized=True) == 0
    assert f"warning: --pre_train {experiments / 'base'} has no effect here" in capfd.readouterr().out
    added = (experiments / "run" / "eval.txt").read_text().splitlines()[len(before):]
    assert [json.loads(row)["k_bits"] for row in added] == [4]


def test_a_run_continues_and_is_tested_with_its_name_alone(launch, bare, experiments, capfd):
    flags = "--lr 3e-4 --betas 0.8,0.99 --dynamic_ratio 0.4 --first_stage_epoch 2 --w_at 7 --decay 1-3 --no_augment"
    assert launch(f"--save whole --epochs 3 {flags}", quantized=True) == 0
    assert launch(f"--save run --epochs 2 {flags}", quantized=True) == 0
    assert bare("--load run --cpu --epochs 3", quantized=True) == 0
    assert not differences(state_of(experiments, "whole"), state_of(experiments, "run"))
    config = last_config(experiments, "run")
    assert (config["lr"], config["decay"], config["w_at"], config["k_bits"]) == ("0.0003", "[1, 3]", "7.0", "4")
    capfd.readouterr()
    assert bare("--load run --cpu --test_only", quantized=True) == 0
    out = capfd.readouterr().out
    assert "--data_test Tiny" in out and "[Tiny x2]\tPSNR" in out
    rows = [json.loads(line) for line in (experiments / "run" / "eval.txt").read_text().splitlines()]
    assert rows[-1]["k_bits"] == 4 and rows[-1]["file"] == "model/model_best.pth.tar"
    assert rows[-1]["psnr"] == max(row["psnr"] for row in rows[:-1])
    assert bare("--save run --cpu --test_only", quantized=True) == 0


@pytest.mark.parametrize("flags, rate, ratio", [
    ("lr 5e-05", 5e-5 / 4, 200), ("bound_lr 0.001", 1e-3 / 4, 1), ("gamma 0.1", 1e-5, 10), ("decay 2-3", 1e-3 / 2, 10),
    ("decay 50", 1e-3, 10)])
def test_rates_that_are_given_are_those_of_the_epoch(flags, rate, ratio, launch, bare, experiments, capfd):
    assert launch("--save run --epochs 2 --lr 1e-3 --decay 1", quantized=True) == 0
    capfd.readouterr()
    assert bare(f"--load run --cpu --epochs 3 --{flags}", quantized=True) == 0
    out = capfd.readouterr().out
    assert f"--{flags}: followed from now on" in out and f"Learning rate: {rate:.2e}" in out
    state = state_of(experiments, "run")
    assert state["history"][-1]["rate"] == pytest.approx(rate)
    weights, bounds = (group["lr"] for group in state["optimizer"]["param_groups"])
    assert bounds == pytest.approx(ratio * weights)
    name, value = flags.split()
    assert last_config(experiments, "run")[name] == {"2-3": "[2, 3]"}.get(value, value)
    assert bare("--load run --cpu --epochs 4", quantized=True) == 0  # the new values stay
    assert f"Learning rate: {weights:.2e}" in capfd.readouterr().out


def test_every_factor_that_is_given_reaches_the_optimizer(launch, experiments, capfd):
    assert launch("--save run") == 0
    assert launch("--load run --epochs 2 --betas 0.5,0.6 --epsilon 1e-6 --weight_decay 0.25 --batch_size 3") == 0
    group = state_of(experiments, "run")["optimizer"]["param_groups"][0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 1e-6, 0.25)
    out = capfd.readouterr().out
    for flag in ("betas 0.5,0.6", "epsilon 1e-06", "weight_decay 0.25", "batch_size 3", "epochs 2"):
        assert f"--{flag}: followed from now on" in out


@pytest.mark.parametrize("flags", [
    "--k_bits 3", "--n_feats 16", "--model RDN", "--rgb_range 1", "--n_colors 1", "--seed 2", "--optimizer SGD",
    "--init_bounds released", "--quantizer pams", "--scale 4", "--bounds symmetric", "--dynamic_ratio 0.2",
    "--dynamic_choice random"])
def test_what_would_be_another_training_is_refused(flags, launch, bare, experiments, capfd):
    assert launch("--save run --epochs 2", quantized=True) == 0
    before = (experiments / "run" / "config.txt").read_text()
    assert bare(f"--load run --cpu --epochs 3 {flags}", quantized=True) == 2
    name, value = flags.split()
    assert re.fullmatch(rf"error: \S*checkpoint.pth.tar: was trained with {name} \S+; give that instead of "
                        rf"{value.lower() if name == '--model' else value}, or leave it out\n", capfd.readouterr().err)
    assert (experiments / "run" / "config.txt").read_text() == before


def test_gates_may_change_until_they_are_chosen(launch, experiments, capfd):
    assert launch("--save run --epochs 1", quantized=True) == 0
    assert launch("--load run --epochs 2 --dynamic_ratio 1 --first_stage_epoch 2", quantized=True) == 0
    state = state_of(experiments, "run")
    assert all(value == 1 for name, value in state["state_dict"].items() if name.endswith("is_dynamic"))
    assert state["phase"] == "dynamic"
    assert launch("--load run --epochs 3 --dynamic_ratio 1 --first_stage_epoch 6", quantized=True) == 2
    assert "was trained with --first_stage_epoch 2" in capfd.readouterr().err


def test_a_checkpoint_without_options_continues_by_the_flags_that_are_given(launch, experiments, capfd):
    flags = "--lr 3e-4 --dynamic_ratio 0.4 --first_stage_epoch 2 --epsilon 1e-7 --decay 1-3 --bound_lr 2e-3"
    assert launch(f"--save whole --epochs 3 {flags}", quantized=True) == 0
    assert launch(f"--save run --epochs 2 {flags}", quantized=True) == 0

    def older(state):
        del state["options"], state["objective"]["schedule"]["starts_in"]
        state["objective"]["schedule"] |= {"dynamic_ratio": 0.4, "first_stage_epoch": 2}
        state["quant"] = {name: state["quant"][name] for name in ("k_bits", "init_bounds")}
        for group in state["optimizer"]["param_groups"]:
            group.pop("decoupled_weight_decay", None)
        for kept in state["optimizer"]["state"].values():
            kept["step"] = int(kept["step"])

    change(experiments, "run", older)
    capfd.readouterr()
    for other in ("--n_feats 16", "--k_bits 32", "--k_bits 2", "--model RDN"):
        assert launch(f"--load run --epochs 3 {flags} {other}", quantized=True) == 2
        assert re.fullmatch(r"error: \S*checkpoint.pth.tar: .*\n", capfd.readouterr().err)
    assert launch(f"--load run --epochs 3 {flags}", quantized=True) == 0
    whole, run = (state_of(experiments, name) for name in ("whole", "run"))
    assert not differences({**whole, "options": 0}, {**run, "options": 0})


def test_keys_of_a_newer_torch_are_no_obstacle(launch, experiments):
    assert launch("--save whole --epochs 2") == 0
    assert launch("--save run") == 0
    change(experiments, "run", lambda state: state["optimizer"]["param_groups"][0].update(of_a_newer_torch=True))
    assert launch("--load run --epochs 2") == 0
    assert not differences(state_of(experiments, "whole"), state_of(experiments, "run"))


@pytest.mark.parametrize("options", [{"lr": "fast"}, {"lr": -1.0}, {"epochs": 2.5}, {"ext": "bin"}, {"data_test": []},
                                     {"optimizer": torch.ones(2)}, {"model": "VDSR"},
                                     {"cpu": 3, "betas": (1, 2, 3)}, {"loss": "1*L9"}])
def test_stored_options_that_no_flag_could_give_are_told(options, launch, experiments, capfd):
    assert launch("--save run") == 0
    change(experiments, "run", lambda state: state["options"].update(options))
    assert launch("--load run --lr 1e-4") == 2
    assert re.fullmatch(r"error: \S*checkpoint.pth.tar: its options can't be used .*\n", capfd.readouterr().err)


def discriminators(state):
    """The state of the optimizer of a GAN loss in a checkpoint."""
    return state["objective"]["loss"]["terms.GAN._extra_state"]


BROKEN_GAN = {
    "shape": lambda s: discriminators(s)["state"][0].update(exp_avg=torch.zeros(7)),
    "negative": lambda s: discriminators(s)["state"][0]["exp_avg_sq"].fill_(-1),
    "lacks": lambda s: discriminators(s)["state"][0].pop("exp_avg_sq"),
    "groups": lambda s: discriminators(s).update(param_groups=[]),
    "no groups": lambda s: discriminators(s).pop("param_groups"),
    "text": lambda s: s["objective"]["loss"].update({"terms.GAN._extra_state": "x"}),
}


BROKEN = {
    "batch": lambda s: s.update(batch=-3), "epoch": lambda s: s.update(epoch=10**12),
    "bool": lambda s: s.update(epoch=True),
    "best": lambda s: s.update(best={}), "best nan": lambda s: s["best"].update(psnr=float("nan")),
    "history": lambda s: s.update(history=[{"epoch": 1}]), "history text": lambda s: s["history"][0].update(epoch="x"),
    "history path": lambda s: s["history"][0].update(psnr={"../../x": 1.0}),
    "scheduler": lambda s: s.update(scheduler={"last_epoch": "x"}), "no scheduler": lambda s: s.pop("scheduler"),
    "behind": lambda s: s["scheduler"].update(last_epoch=0), "sums": lambda s: s.update(sums={"L1": torch.zeros(3)}),
    "history huge": lambda s: s["history"][0].update(psnr={"T": 10**400}),
    "sums complex": lambda s: s.update(sums={"L1": torch.tensor(1 + 2j)}, counts={"L1": 1}, batch=1),
    "sums nan": lambda s: s.update(sums={"L1": torch.tensor(float("nan"))}), "sums list": lambda s: s.update(sums=[1]),
    "shape": lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)),
    "text": lambda s: s["optimizer"]["state"][0].update(exp_avg="x"),
    "nan": lambda s: s["optimizer"]["state"][0]["exp_avg"].fill_(float("nan")),
    "negative": lambda s: s["optimizer"]["state"][0]["exp_avg_sq"].fill_(-1),
    "step": lambda s: s["optimizer"]["state"][0].update(step=torch.tensor(-1.0)),
    "lacks": lambda s: s["optimizer"]["state"][0].pop("exp_avg_sq"),
    "unknown": lambda s: s["optimizer"]["state"].update({999: {}}),
    "groups": lambda s: s["optimizer"].update(param_groups=[]), "no random": lambda s: s.pop("random"),
    "random": lambda s: s["random"].update(torch=torch.zeros(3)),
    "python": lambda s: s["random"].update(python=[3, [], None]),
    "precision": lambda s: s.update(precision=[float("nan")]), "objective": lambda s: s.update(objective=None),
    "teacher": lambda s: next(iter(s["objective"]["teacher"].values())).fill_(float("inf")),
    "records": lambda s: s["objective"]["schedule"].update(observations={"body.0.act1": torch.zeros(3)}),
    "records of others": lambda s: s["objective"]["schedule"].update(observations={"x": torch.zeros(3, 2)}),
    "chosen": lambda s: s["objective"]["schedule"].update(chosen="yes"),
    "phase": lambda s: s["objective"]["schedule"].update(phase="sideways"),
}


@pytest.fixture(scope="module")
def finished_low(tmp_path_factory, launch_anywhere):
    """The checkpoint of a quantized run of two epochs."""
    root = tmp_path_factory.mktemp("low")
    (root / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "work")
        assert launch_anywhere("--save low --epochs 2", quantized=True) == 0
    return root / "experiment" / "low" / "model" / "checkpoint.pth.tar"


@pytest.fixture(scope="module")
def gan_run(tmp_path_factory, launch_anywhere):
    """The checkpoint of an epoch with a GAN loss."""
    root = tmp_path_factory.mktemp("gan")
    (root / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "work")
        assert launch_anywhere("--save gan --epochs 1 --loss 1*L1+0.1*GAN --patch_size 32") == 0
    return root / "experiment" / "gan" / "model" / "checkpoint.pth.tar"


@pytest.mark.parametrize("name", BROKEN)
def test_a_training_state_that_cannot_be_used_is_told_before_training(name, finished_low, launch, experiments, tmp_path,
                                                                      capfd):
    state = torch.load(finished_low, weights_only=True)
    BROKEN[name](state)
    torch.save(state, tmp_path / "broken.pt")
    assert launch(f"--save run --resume {tmp_path / 'broken.pt'} --epochs 3", quantized=True) == 2
    assert re.fullmatch(r"error: \S*broken.pt: .+\n", capfd.readouterr().err)
    assert not (experiments / "run").exists()


@pytest.mark.parametrize("name", BROKEN_GAN)
def test_a_discriminators_state_that_cannot_be_used_is_told(name, gan_run, launch, experiments, tmp_path, capfd):
    state = torch.load(gan_run, weights_only=True)
    BROKEN_GAN[name](state)
    torch.save(state, tmp_path / "broken.pt")
    assert launch(f"--save run --resume {tmp_path / 'broken.pt'} --epochs 2 --loss 1*L1+0.1*GAN --patch_size 32") == 2
    assert re.fullmatch(r"error: \S*broken.pt: holds no complete training state.+\n", capfd.readouterr().err)
    assert not (experiments / "run").exists()


@pytest.mark.parametrize("change", [{}, {"lr": "x"}, {"betas": (2.0, -5)}])
def test_a_discriminator_goes_on_with_its_own_rates(change, gan_run, launch, experiments, tmp_path):
    state = torch.load(gan_run, weights_only=True)
    discriminators(state)["param_groups"][0].update(change)
    torch.save(state, tmp_path / "changed.pt")
    assert launch(f"--save run --resume {tmp_path / 'changed.pt'} --epochs 2 --loss 1*L1+0.1*GAN --patch_size 32") == 0
    group = discriminators(state_of(experiments, "run"))["param_groups"][0]
    assert (group["lr"], tuple(group["betas"])) == (1e-4, (0.9, 0.999))


def test_resume_with_a_number_goes_on_after_that_epoch_and_keeps_the_rest(launch, bare, experiments, capfd):
    assert launch("--save whole --epochs 4 --save_models") == 0
    assert launch("--save run --epochs 3 --save_models --lr 1e-3") == 0
    last, best = state_of(experiments, "run"), state_of(experiments, "run", "model_best")
    capfd.readouterr()
    assert bare("--load run --resume 2 --epochs 4 --cpu") == 0
    out = capfd.readouterr().out
    assert re.findall(r"Epoch \d", out) == ["Epoch 3", "Epoch 4"]
    assert "is kept in ../experiment/run.old-1" in out
    assert not differences(last, state_of(experiments, "run.old-1"))
    assert not differences(best, state_of(experiments, "run.old-1", "model_best"))
    assert {path.name for path in (experiments / "run" / "model").iterdir()} == {
        "checkpoint.pth.tar", "model_best.pth.tar", *(f"model_{epoch}.pth.tar" for epoch in (1, 2, 3, 4))}
    assert state_of(experiments, "run", "model_best")["best"] == state_of(experiments, "run")["best"]
    assert not differences(state_of(experiments, "run.old-1", "model_3")["state_dict"],
                           state_of(experiments, "run", "model_3")["state_dict"])  # the same seed, the same way
    assert bare("--load run --resume 7 --cpu") == 2
    assert "--resume 7: no such epoch is kept in ../experiment/run/model (it has 1, 2, 3, 4)" in capfd.readouterr().err


@pytest.mark.parametrize("killed_in", ["describe", "adopt"])
def test_a_run_that_was_killed_as_it_went_back_goes_on(killed_in, launch, bare, experiments, monkeypatch, capfd):
    assert launch("--save run --epochs 3 --save_models --lr 1e-3") == 0
    shutil.copytree(experiments / "run", experiments / "whole")
    assert bare("--load whole --resume 2 --epochs 4 --cpu") == 0

    def killed(*_, **__):
        raise Stopped(signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, killed_in, killed)
        assert bare("--load run --resume 2 --epochs 4 --cpu") == 137
    capfd.readouterr()
    assert bare("--load run --resume 2 --cpu") == 2
    assert re.search("leave the number out .*; the run that was here last is in .*run.old-1\n", capfd.readouterr().err)
    assert bare("--load run --resume --epochs 4 --cpu") == 0
    assert re.findall(r"Epoch \d", capfd.readouterr().out) == ["Epoch 3", "Epoch 4"]
    for name in ("checkpoint", "model_best"):
        one, other = (state_of(experiments, run, name) for run in ("run", "whole"))
        assert not differences({**one, "options": 0}, {**other, "options": 0})


def test_a_run_that_is_begun_tells_of_the_one_that_was_there(launch, experiments, capfd):
    assert launch("--save run") == 0
    (experiments / "run").rename(experiments / "run.old-1")
    assert launch("--load run") == 0
    assert re.search(r"warning: --load \S*run: no checkpoint is there yet, .*; the run that was here last is in "
                     r"\S*run.old-1", capfd.readouterr().out)


def test_other_training_images_are_told(launch, bare, experiments, tiny_data, tmp_path, capfd):
    assert launch("--save run") == 0
    shutil.copytree(tiny_data, tmp_path / "other")
    assert bare(f"--load run --epochs 2 --cpu --dir_data {tmp_path / 'other'}") == 0
    assert "training images are others" not in capfd.readouterr().out
    for folder, name in (("DIV2K_train_HR", "000{}.png"), ("DIV2K_train_LR_bicubic/X2", "000{}x2.png")):
        image = tmp_path / "other" / "DIV2K" / folder / name.format(2)
        write_png(image, read_image(image) // 64)
    assert bare(f"--load run --epochs 3 --cpu --dir_data {tmp_path / 'other'}") == 0
    assert "warning: the training images are others than those that it was trained on" in capfd.readouterr().out


def test_resume_of_a_file_keeps_the_run_that_was_there_aside_and_brings_its_best(launch, experiments, capfd):
    assert launch("--save one --epochs 2") == 0
    assert launch("--save two --seed 3") == 0
    two = state_of(experiments, "two", "model_best")
    file = experiments / "one" / "model" / "checkpoint.pth.tar"
    assert launch(f"--save two --resume {file} --epochs 2") == 0  # nothing is left to train
    assert not differences(two, state_of(experiments, "two.old-1", "model_best"))
    assert not differences(state_of(experiments, "one", "model_best"), state_of(experiments, "two", "model_best"))
    moved = experiments.parent / "moved.pt"
    file.rename(moved)
    capfd.readouterr()
    assert launch(f"--save three --resume {moved} --epochs 3") == 0
    assert "the best is counted anew" in capfd.readouterr().out
    best = state_of(experiments, "three", "model_best")
    assert best["best"]["epoch"] == best["epoch"] == 3


def test_a_best_network_of_another_run_is_set_aside(launch, experiments, capfd):
    assert launch("--save one --epochs 2") == 0
    assert launch("--save two --seed 3 --epochs 4") == 0
    foreign = (experiments / "two" / "model" / "model_best.pth.tar").read_bytes()
    foreign_epoch = state_of(experiments, "two", "model_best")["epoch"]
    assert foreign_epoch != 3
    (experiments / "one" / "model" / "model_best.pth.tar").write_bytes(foreign)
    assert launch("--load one --epochs 3") == 0
    assert (experiments / "one" / "model" / "model_best.old-1.pth.tar").read_bytes() == foreign
    assert state_of(experiments, "one", "model_best")["best"] == state_of(experiments, "one")["best"]


@pytest.mark.parametrize("flags", ["--data_test DIV2K", "--self_ensemble"])
def test_the_best_by_another_test_is_counted_anew(flags, launch, experiments, capfd):
    assert launch("--save run --epochs 2") == 0
    before = state_of(experiments, "run", "model_best")
    before["best"]["psnr"] = 99.0
    torch.save(before, experiments / "run" / "model" / "model_best.pth.tar")
    change(experiments, "run", lambda state: state["best"].update(before["best"]))
    assert launch(f"--load run {flags}") == 0  # nothing is left to train
    assert state_of(experiments, "run", "model_best")["best"]["psnr"] == 99
    capfd.readouterr()
    assert launch(f"--load run --epochs 3 {flags}") == 0
    assert "was found by another test; the best is counted anew" in capfd.readouterr().out
    assert state_of(experiments, "run", "model_best")["epoch"] == 3
    assert state_of(experiments, "run", "model_best.old-1")["best"]["psnr"] == 99


def test_the_best_by_other_images_of_the_same_names_is_counted_anew(launch, experiments, tiny_data, tmp_path, capfd):
    assert launch("--save run --epochs 2") == 0
    shutil.copytree(tiny_data, tmp_path / "other")
    for path in (tmp_path / "other" / "benchmark" / "Tiny").rglob("two*.png"):
        path.unlink()  # the set has one image now
    capfd.readouterr()
    assert launch(f"--load run --epochs 3 --dir_data {tmp_path / 'other'}") == 0
    assert "was found by another test; the best is counted anew" in capfd.readouterr().out
    assert state_of(experiments, "run", "model_best")["epoch"] == 3


@pytest.mark.parametrize("data_range", ["1-4/6-6", "1-4", "1-5/5-6"])
def test_images_that_only_train_do_not_change_what_is_best(data_range, launch, experiments, tiny_data, capfd):
    assert launch("--save run --epochs 2") == 0
    change(experiments, "run", lambda state: state["best"].update(psnr=99.0))
    torch.save(state_of(experiments, "run"), experiments / "run" / "model" / "model_best.pth.tar")
    capfd.readouterr()
    assert launch(f"--load run --epochs 3 --data_range {data_range}") == 0
    assert "counted anew" not in capfd.readouterr().out
    assert state_of(experiments, "run")["best"]["psnr"] == 99


@pytest.fixture
def begun(launch, monkeypatch):
    """Function that begins a run, which fails in its first step."""

    def begin(flags):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(main_limitrange_incremental.Distillation, "losses", lambda *_: 1 / 0)
            launch(flags, quantized=True)

    return begin


def test_a_run_that_failed_in_its_first_step_continues_with_its_options(begun, bare, experiments, capfd):
    begun("--save run --epochs 2 --w_at 7")
    assert bare("--load run --cpu --seed 4", quantized=True) == 2
    assert "was trained with --seed 1; give that instead of 4" in capfd.readouterr().err
    assert bare("--load run --cpu --lr 1e-3", quantized=True) == 0
    assert "checkpoint.pth.tar: --batch_size 2" in capfd.readouterr().out
    options = state_of(experiments, "run")["options"]
    assert [options[name] for name in ("k_bits", "w_at", "lr", "n_feats")] == [4, 7.0, 1e-3, 8]


def test_losses_that_change_within_an_epoch_have_the_means_of_their_own_batches(launch, experiments, monkeypatch):
    steps = []

    def losses(self, network, lr, hr):
        steps.append(len(steps) + 1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        part = 0 * network(lr).mean() + len(steps)
        return part, dict.fromkeys(self.loss.weights, part.detach())

    monkeypatch.setattr(main_ori.Supervised, "losses", losses)
    assert launch("--save run --loss 1*L1") == 128 + signal.SIGTERM
    assert launch("--load run --loss 1*MSE") == 0
    assert steps == [1, 2, 3]
    assert state_of(experiments, "run")["history"][0]["losses"] == {"L1": 1.5, "MSE": 3.0}


def test_flags_that_stand_alone_can_be_taken_back(launch, bare, experiments, capfd):
    assert launch("--save run --self_ensemble --no_augment --save_models") == 0
    capfd.readouterr()
    assert bare("--load run --cpu --epochs 2 --self_ensemble False --no_augment=false --save_models True") == 0
    told = capfd.readouterr().out
    assert re.search("--self_ensemble False: followed from now on; .* was trained with True", told)
    options = state_of(experiments, "run")["options"]
    assert [options[name] for name in ("self_ensemble", "no_augment", "save_models")] == [False, False, True]
    assert bare("--load run --cpu maybe") == 2
    assert "error: --cpu: 'maybe' does not belong here; give nothing, True or False" in capfd.readouterr().err


def test_a_mistake_beside_a_load_that_finds_no_run_leaves_nothing(launch, experiments, capfd):
    assert launch("--save run") == 0
    before = sorted(experiments.rglob("*"))
    for name in ("typo", "output/typo", "run/model"):
        assert launch(f"--load {name} --data_test Nowhere") == 2
        assert "error: --data_test Nowhere" in capfd.readouterr().err
    assert sorted(experiments.rglob("*")) == before
    assert launch("--load run/config.txt") == 2
    assert re.search(r"error: --load \S*config.txt: .* is no folder", capfd.readouterr().err)


def test_a_start_that_came_to_nothing_is_not_kept_aside(begun, launch, experiments):
    for epochs in (2, 3):
        begun(f"--save run --epochs {epochs}")
    assert state_of(experiments, "run")["options"]["epochs"] == 3
    assert launch("--save run", quantized=True) == 0
    assert [path.name for path in experiments.iterdir()] == ["run"]


def test_reset_keeps_the_weights_that_it_is_to_start_from(launch, experiments, capfd):
    assert launch("--save run") == 0
    for path in (experiments / "run", experiments / "run" / "model" / "checkpoint.pth.tar"):
        for flag in ("pre_train", "refine"):
            assert launch(f"--save run --reset --{flag} {path}") == 2
            assert f"--reset: would delete what --{flag} names" in capfd.readouterr().err
    assert launch(f"--save run/below --reset --pre_train {experiments / 'run'}") == 0
    (experiments / "RUN").symlink_to("run")  # as on a disk on which both names are one folder's
    assert launch(f"--save run --reset --pre_train {experiments / 'RUN' / 'model' / 'checkpoint.pth.tar'}") == 2


def test_a_teacher_that_is_spoilt_is_refused(launch, experiments, capfd):
    assert launch("--save run --epochs 2", quantized=True) == 0
    change(experiments, "run", lambda state: state["objective"]["teacher"]["head.0.bias"].fill_(float("inf")))
    assert launch(f"--save two --refine {experiments / 'run'}", quantized=True) == 2
    assert "is spoilt, 1 not finite: head.0.bias" in capfd.readouterr().err


def test_a_run_that_has_its_epochs_says_so(launch, bare, experiments, capfd):
    assert launch("--save whole --epochs 2") == 0
    capfd.readouterr()
    assert bare("--load whole --epochs 1") == 0
    assert "finished: 2 epochs" in "".join(capfd.readouterr())


def test_load_with_reset_is_refused(launch, experiments, capfd):
    assert launch("--save run") == 0
    assert launch("--save run --load run --reset") == 2
    assert "--reset: begins anew" in capfd.readouterr().err


def test_a_network_that_calibrates_is_not_tested_or_kept(launch, experiments, capfd):
    assert launch("--save run --epochs 1 --save_models --save_results", quantized=True) == 0
    run = experiments / "run"
    assert not (run / "eval.txt").exists() and not list(run.glob("results-*"))
    assert {path.name for path in (run / "model").iterdir()} == {"checkpoint.pth.tar"}
    assert state_of(experiments, "run")["history"][0]["psnr"] == {}
    capfd.readouterr()
    for flags in ("--test_only --load run", f"--test_only --refine {run}", f"--save other --refine {run}"):
        assert launch(flags, quantized=True) == 2
        assert "was saved while calibrating, nothing is quantized yet" in capfd.readouterr().err
    assert launch("--load run --epochs 2", quantized=True) == 0
    assert [json.loads(line)["epoch"] for line in (run / "eval.txt").read_text().splitlines()] == [2]


@pytest.mark.parametrize("flags, phase", [("--first_stage_epoch 2", "dynamic"), ("", "static")])
def test_refine_keeps_bounds_gates_and_phase(flags, phase, launch, bare, experiments, capfd):
    assert launch(f"--save run --epochs 2 {flags}", quantized=True) == 0
    start = state_of(experiments, "run")
    more = "--lr 1e-30 --bound_lr 1e-30 --init_bounds calibrated --dynamic_ratio 0"
    file = experiments / "run" / "model" / "checkpoint.pth.tar"
    assert launch(f"--save fine --refine {file} {more}", quantized=True) == 0
    fine = state_of(experiments, "fine")
    assert fine["phase"] == phase and fine["state_dict"].keys() == start["state_dict"].keys()
    for name, value in start["state_dict"].items():
        if "alpha" in name or name.endswith(("is_dynamic", "initialised", "body.0.body.0.weight")):
            assert torch.equal(value, fine["state_dict"][name]), name
    assert not differences(start["objective"]["teacher"], fine["objective"]["teacher"])
    told = capfd.readouterr().out
    assert f"and its phase ({phase}) are kept; nothing is calibrated" in told
    assert ("warning: no best network is counted before epoch 6" in told.split("--refine")[-1]) == (phase == "static")
    assert bare("--load fine --epochs 2 --cpu", quantized=True) == 0
    assert state_of(experiments, "fine")["phase"] == phase


@pytest.mark.parametrize("damage", [lambda state: state.pop("objective"), lambda state: state.update(objective=None)])
def test_refine_without_a_teacher_needs_pre_train(damage, launch, experiments, tmp_path, capfd):
    assert launch("--save run --epochs 2", quantized=True) == 0
    state = state_of(experiments, "run")
    damage(state)
    torch.save(state, tmp_path / "alone.pth.tar")
    capfd.readouterr()
    assert launch(f"--save fine --refine {tmp_path / 'alone.pth.tar'}", quantized=True) == 2
    assert "alone.pth.tar: has no teacher in it" in capfd.readouterr().err
    assert not (experiments / "fine").exists()
    torch.save(NETWORKS["edsr"](scale=2, n_feats=8, n_resblocks=1).state_dict(), tmp_path / "full.pt")
    flags = f"--save fine --epochs 1 --refine {tmp_path / 'alone.pth.tar'} --pre_train {tmp_path / 'full.pt'}"
    assert launch(flags, quantized=True) == 0


SIZES = {"edsr": {"n_feats": 8, "n_resblocks": 1}, "srresnet": {"n_feats": 8, "n_resblocks": 1},
         "rdn": {"G0": 8, "RDNconfig": "A"}}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("scales", [(2, 4), (2, 3), (4, 2), (3, 4)])
def test_head_and_body_of_another_scale_are_taken_and_the_upsampler_begins_anew(name, scales, tmp_path, caplog):
    if name == "rdn" and scales != (2, 4):
        pytest.skip("large; once is enough")
    torch.manual_seed(0)
    source, network = (NETWORKS[name](scale=scale, **SIZES[name]) for scale in scales)
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    state = source.state_dict()
    record = {"name": name, **SIZES[name]}
    assert (scale_of(record, state, ""), scale_of(record, fresh, "")) == scales
    torch.save(state, tmp_path / "x.pt")
    caplog.set_level("INFO")
    load_weights(network, tmp_path / "x.pt", "--pre_train", any_scale=True)
    assert "the upsampler begins anew" in caplog.text
    for key, value in network.state_dict().items():
        upsampler = key.split(".")[0] in network.UPSAMPLER
        assert torch.equal(value, fresh[key] if upsampler else state[key])
    state.pop(next(key for key in state if key.split(".")[0] not in network.UPSAMPLER))
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match="x.pt: does not fit"):
        load_weights(network, tmp_path / "x.pt", "--pre_train", any_scale=True)


def test_another_scale_starts_training_and_is_not_tested(launch, experiments, tmp_path, capfd):
    torch.save(NETWORKS["edsr"](scale=4, n_feats=8, n_resblocks=1).state_dict(), tmp_path / "x4.pt")
    for quantized in (False, True):
        assert launch(f"--pre_train {tmp_path / 'x4.pt'}", quantized=quantized) == 0
        assert "the upsampler begins anew" in capfd.readouterr().out
    for flag in ("--pre_train", "--refine"):
        assert launch(f"--test_only {flag} {tmp_path / 'x4.pt'}") == 2
        assert "does not fit this network" in capfd.readouterr().err


def test_weights_that_run_sh_lacks_are_named_with_the_way_to_them(launch, experiments, capfd):
    assert launch("--pre_train ./pretrained/edsr_baseline_x2.pt", quantized=True) == 2
    told = capfd.readouterr().err
    assert "edsr_baseline_x2.pt: no such file; `bash baseline.sh edsr_x2`" in told
    assert "--pre_train ../experiment/edsr_baseline_x2" in told


def test_options_of_files_that_have_none(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text("x")
    for name in ("plain.pt", "text.pt", "nowhere.pt", "."):
        assert checkpoint_with_options(tmp_path / name) is None


def test_a_damaged_checkpoint_is_what_is_told(launch, experiments, capfd):
    assert launch("--save run --epochs 1") == 0
    path = experiments / "run" / "model" / "checkpoint.pth.tar"
    path.write_bytes(path.read_bytes()[:1000])
    for flags in ("--load run", "--load run --test_only", "--resume --save run"):
        (experiments / "run" / "model" / "model_best.pth.tar").unlink(missing_ok=True)
        capfd.readouterr()
        assert launch(f"{flags} --epochs 2") == 2
        told = capfd.readouterr()
        assert "checkpoint.pth.tar: " in told.err and "no --k_bits" not in told.out


def test_settings_of_another_quantizer_that_older_runs_kept_are_passed_over(launch, bare, experiments):
    assert launch("--save run --quantizer minmax --epochs 2", quantized=True) == 0

    def older(state):
        state["options"].update(init_bounds="calibrated")
        state["quant"] = {"k_bits": 4, "init_bounds": "calibrated", "quantizer": "minmax", "bounds": "dual"}

    change(experiments, "run", older)
    assert bare("--load run --cpu --epochs 3", quantized=True) == 0
    assert bare("--load run --test_only --cpu", quantized=True) == 0


def test_processes_that_would_begin_differently_write_nothing(launch, experiments, monkeypatch, capfd):
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "all_gather", lambda own: torch.cat((own, own + 1)))
    assert launch("--save run") == 2
    assert re.fullmatch(r"error: \S*run: the processes .* different weights, images or flags; .*\n",
                        capfd.readouterr().err)
    assert not (experiments / "run").exists()


def test_processes_begin_alike_though_paths_differ(monkeypatch):
    there = []
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "all_gather", lambda own: torch.cat((there or [own])[:1] + [own]))
    options = {"batch_size": 2, "dir_data": "/a", "n_threads": 4}
    there.append(fingerprint([[1], {"batch_size": 2}]))
    begin_alike([1], options, Path("run"))
    begin_alike([1], {**options, "dir_data": "/b", "n_threads": 0}, Path("run"))
    for state, other in (([1], {**options, "batch_size": 4}), ([2], options)):
        with pytest.raises(UserError, match="run: the processes of this run would begin"):
            begin_alike(state, other, Path("run"))


def test_a_start_is_known_by_all_its_values(launch, experiments):
    assert launch("--save run", quantized=True) == 0
    state = state_of(experiments, "run")
    known = fingerprint(state)
    assert torch.equal(known, fingerprint(state_of(experiments, "run")))
    for change in (lambda s: s["objective"]["teacher"]["head.0.weight"].flatten()[0].add_(1e-7),
                   lambda s: s["state_dict"]["head.0.weight"].flatten()[0].add_(1e-7),
                   lambda s: s.update(batch=1), lambda s: s["best"].update(psnr=0.5)):
        other = state_of(experiments, "run")
        change(other)
        assert not torch.equal(known, fingerprint(other))


def test_a_test_that_was_stopped_goes_on_with_continue_test(launch, bare, experiments, monkeypatch, capfd):
    assert launch("--save run --epochs 2", quantized=True) == 0
    flags = f"--test_only --cpu --load run --save results/run --dir_data {last_config(experiments, 'run')['dir_data']}"
    tested, super_resolve = [], evaluator.super_resolve

    def stopped_at(number):
        def counting(*args, **how):
            if len(tested) == number:
                raise Stopped(signal.SIGTERM)
            tested.append(args)
            return super_resolve(*args, **how)

        monkeypatch.setattr(evaluator, "super_resolve", counting)

    stopped_at(1)
    assert bare(f"{flags} --continue_test", quantized=True) == 143
    stopped_at(None)
    assert bare(f"{flags} --continue_test", quantized=True) == 0
    assert len(tested) == 2
    rows = [json.loads(line) for line in (experiments / "run" / "eval.txt").read_text().splitlines()]
    assert {name: rows[-1][name] for name in ("psnr", "ssim", "images")} == {
        name: rows[-2][name] for name in ("psnr", "ssim", "images")}
    capfd.readouterr()
    assert launch("--save other --continue_test") == 0
    assert "--continue_test has no effect" in capfd.readouterr().out


def test_a_run_that_can_count_no_best_network_says_so(launch, experiments, tiny_data, capfd):
    pictures = tiny_data / "benchmark" / "Tiny" / "LR_bicubic" / "X2"
    assert launch(f"--save run --epochs 1 --data_test Demo --dir_demo {pictures}") == 0
    assert "warning: no set of --data_test has HR images, so no best network can be counted" in capfd.readouterr().out


def test_a_missing_network_that_comes_with_the_code_is_pointed_to(launch, experiments, capfd):
    usual = "--n_resblocks 16 --n_feats 64 --pre_train nowhere.pt --model edsr --scale 2"
    assert launch(usual, quantized=True) == 2
    assert "pretrained/edsr_baseline_x2.pt comes with the code" in capfd.readouterr().err
