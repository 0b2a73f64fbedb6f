import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kill_resume import differences

from engine.recorder import Recorder
from trainer import Trainer
from utility import UNFINISHED

EPOCHS = {False: 2, True: 7}  # DDTB applies its gates in epoch 6
BATCHES = 3
SCRIPT = Path(__file__).parent / "helpers" / "kill_resume.py"


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours catches it."""


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes most of a tiny run's time; the history that the curves show is kept."""

    def add_epoch(self, epoch, *, losses, results, rate, scalars):
        self.history.append({"epoch": epoch, "losses": losses, "psnr": {k: v["psnr"] for k, v in results.items()}})

    monkeypatch.setattr(Recorder, "add_epoch", add_epoch)


@pytest.fixture
def in_step(monkeypatch):
    """Function that lets `act(trainer)` happen before step `number` of what trains next, counted from 1, and once."""
    whole, armed = Trainer.step, []

    def step(self, lr, hr):
        if armed:
            armed[0][0] -= 1
            if armed[0][0] == 0:
                armed.pop()[1](self)
        whole(self, lr, hr)

    monkeypatch.setattr(Trainer, "step", step)
    return lambda number, act: armed.append([number, act])


@pytest.fixture(scope="module")
def finished():
    """What undisturbed runs ended with, by their flags."""
    return {}


@pytest.fixture
def undisturbed(launch, experiments, finished):
    """Function that gives the last checkpoint of a run that nothing disturbed."""

    def run(quantized, more=""):
        if (quantized, more) not in finished:
            assert launch(flags("whole", quantized, more), quantized=quantized) == 0
            finished[quantized, more] = checkpoint(experiments, "whole")
        return finished[quantized, more]

    return run


def die(trainer):
    raise Killed


def send(number):
    return lambda trainer: os.kill(os.getpid(), number)


def flags(save, quantized, more=""):
    return f"--save {save} --test_every {BATCHES} --epochs {EPOCHS[quantized]} --checkpoint_every 1 {more}"


def checkpoint(experiments, save, name="checkpoint"):
    """A checkpoint without what changes nothing in its training."""
    state = torch.load(experiments / save / "model" / f"{name}.pth.tar", weights_only=True)
    for option in ("n_threads", "checkpoint_every"):
        state["options"].pop(option)
    return state


@pytest.fixture
def killed_and_resumed(launch, experiments, in_step):
    """Function that kills a run in its n-th step and gives the last checkpoint of its continuation."""

    def run(step, quantized, more="", resume="--load killed"):
        in_step(step, die)
        with pytest.raises(Killed):
            launch(flags("killed", quantized, more), quantized=quantized)
        assert launch(f"{flags('killed', quantized, more)} {resume}", quantized=quantized) == 0
        return checkpoint(experiments, "killed")

    return run


# in calibration, before the gates are chosen, with gates beside, and with gates applied
@pytest.mark.parametrize("step", [2, 4, 8, 17])
def test_quantized_run_killed_in_any_stage_ends_bit_identical(undisturbed, killed_and_resumed, step):
    assert not differences(undisturbed(True), killed_and_resumed(step, True))


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 7 * BATCHES + 1))
@pytest.mark.parametrize("model", ["SRResNet", "RDN --RDNconfig A --G0 8"])
def test_every_network_killed_in_every_step_ends_bit_identical(undisturbed, killed_and_resumed, model, step):
    assert not differences(undisturbed(True, f"--model {model}"), killed_and_resumed(step, True, f"--model {model}"))


@pytest.mark.parametrize("step", [1, 4, 5])
def test_full_precision_run_killed_ends_bit_identical(undisturbed, killed_and_resumed, step):
    assert not differences(undisturbed(False), killed_and_resumed(step, False))


@pytest.mark.parametrize("more", ["--amp fp16 --optimizer SGD",
                                  pytest.param("--loss 1*L1+0.01*RGAN --patch_size 18", marks=pytest.mark.slow)])
def test_all_that_trains_along_is_resumed(undisturbed, killed_and_resumed, more):
    assert not differences(undisturbed(False, more), killed_and_resumed(5, False, more))


def test_a_bare_resume_and_a_file_continue_too(undisturbed, killed_and_resumed, experiments, launch):
    assert not differences(undisturbed(False), killed_and_resumed(5, False, resume="--resume"))
    file = experiments / "killed" / "model" / "checkpoint.pth.tar"
    assert not differences(undisturbed(False), killed_and_resumed(5, False, resume=f"--resume {file}"))


def test_without_checkpoint_every_an_epoch_is_lost_at_most(launch, experiments, in_step, undisturbed):
    in_step(BATCHES + 2, die)
    options = flags("killed", False).replace("--checkpoint_every 1", "")
    with pytest.raises(Killed):
        launch(options)
    state = checkpoint(experiments, "killed")
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert launch(f"{options} --load killed") == 0
    assert not differences(undisturbed(False), checkpoint(experiments, "killed"))


def test_killed_between_the_writes_of_best_and_checkpoint_the_best_is_found_again(
        undisturbed, launch, experiments, monkeypatch):
    written = []

    def replace(source, target, replace=os.replace):
        replace(source, target)
        written.append(Path(target).name)
        if written.count("model_best.pth.tar") == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", replace)
        launch(flags("killed", False))
    assert launch(flags("killed", False, "--load killed")) == 0
    assert not differences(undisturbed(False), checkpoint(experiments, "killed"))
    assert not differences(undisturbed(False), checkpoint(experiments, "killed", "model_best"))


def test_load_of_a_run_that_saved_nothing_yet_begins_it(undisturbed, launch, experiments, caplog):
    assert launch(flags("killed", False, "--load killed")) == 0
    assert not differences(undisturbed(False), checkpoint(experiments, "killed"))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_says_so(undisturbed, launch, experiments, in_step, capfd, number, code):
    in_step(8, send(number))
    options = flags("killed", True).replace("--checkpoint_every 1", "")
    assert launch(options, quantized=True) == code
    state = checkpoint(experiments, "killed")
    assert (state["epoch"] + 1, state["batch"]) == (3, 2)
    told = capfd.readouterr().err.strip()
    assert told == f"stopped by {number.name}: saved after batch 2 of epoch 3; go on with --load ../experiment/killed"
    assert (experiments / "killed" / "log.txt").read_text().endswith(f"{told}\n")
    assert launch(f"{options} --load killed", quantized=True) == 0
    assert not differences(undisturbed(True), checkpoint(experiments, "killed"))


def test_a_signal_during_a_test_ends_the_program_at_once(launch, experiments, monkeypatch, undisturbed):
    with monkeypatch.context() as patch:
        patch.setattr("engine.evaluator.super_resolve", lambda *_, **__: send(signal.SIGTERM)(None))
        assert launch(flags("killed", False)) == 143
    state = checkpoint(experiments, "killed")
    assert (state["epoch"], state["batch"]) == (0, BATCHES)
    assert launch(flags("killed", False, "--load killed")) == 0
    assert not differences(undisturbed(False), checkpoint(experiments, "killed"))


def test_handlers_are_given_back(launch):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert launch("--save quick") == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_full_disk_keeps_the_checkpoint_and_says_so(undisturbed, launch, experiments, in_step, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    in_step(5, lambda trainer: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1])))
    try:
        assert launch(flags("killed", False)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capfd.readouterr().err
    assert "checkpoint.pth.tar: can't be written (File too large); what was there is kept" in told
    assert not list((experiments / "killed").rglob(f"{UNFINISHED}*"))
    state = checkpoint(experiments, "killed")
    assert (state["epoch"] + 1, state["batch"]) == (2, 1)
    assert launch(flags("killed", False, "--load killed")) == 0
    assert not differences(undisturbed(False), checkpoint(experiments, "killed"))


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(launch, experiments, in_step, capfd):
    def poison(trainer):
        next(trainer.network.parameters()).data.fill_(float("nan"))

    in_step(5, poison)
    assert launch(flags("killed", False)) == 2
    assert "loss L1 is not finite in epoch 2, by batch 2" in capfd.readouterr().err
    state = checkpoint(experiments, "killed")
    assert (state["epoch"] + 1, state["batch"]) == (2, 1)
    assert all(value.isfinite().all() for value in state["state_dict"].values())


@pytest.mark.parametrize("part", ["network", "optimizer"])
def test_what_the_last_step_spoilt_is_not_saved(launch, experiments, monkeypatch, capfd, part):
    """Its own loss was still finite."""
    whole, steps = Trainer.step, []

    def step(self, lr, hr):
        whole(self, lr, hr)
        steps.append(None)
        if len(steps) == 5:
            weight = self.optimizer.param_groups[0]["params"][0]
            (weight.data if part == "network" else self.optimizer.state[weight]["exp_avg"]).fill_(float("inf"))

    monkeypatch.setattr(Trainer, "step", step)
    assert launch(flags("killed", False)) == 2
    assert f"state of the {part} is not finite in epoch 2, by batch 2; lower --lr" in capfd.readouterr().err
    state = checkpoint(experiments, "killed")
    assert (state["epoch"] + 1, state["batch"]) == (2, 1)
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    assert launch(flags("killed", False, "--load killed")) == 0


def test_a_run_that_begins_with_another_ones_checkpoint_has_its_own_before_the_first_step(launch, experiments,
                                                                                          in_step):
    assert launch(flags("first", False, "--epochs 1")) == 0
    kept = []
    in_step(1, lambda trainer: kept.append(checkpoint(experiments, "second")["epoch"]))
    file = experiments / "first" / "model" / "checkpoint.pth.tar"
    assert launch(f"--save second --resume {file} --epochs 2 --checkpoint_every 0") == 0
    assert kept == [1]


def test_what_killed_runs_left_behind_is_cleaned_up_and_half_lines_are_ended(launch, experiments):
    assert launch("--save run") == 0
    run = experiments / "run"
    for place in ("model", "results-Tiny", "."):
        (run / place).mkdir(exist_ok=True)
        (run / place / f"{UNFINISHED}checkpoint.pth.x1y2.tar").write_bytes(b"half a")
    for name in ("eval.txt", "log.txt", "config.txt"):
        with open(run / name, "a") as file:
            file.write('{"epoch": 3, "se')
    assert launch("--save run --load run --epochs 2") == 0
    assert not list(run.rglob(f"{UNFINISHED}*"))
    lines = (run / "eval.txt").read_text().splitlines()
    assert lines[1] == '{"epoch": 3, "se'
    assert [json.loads(line)["epoch"] for line in (lines[0], lines[2])] == [1, 2]
    for name in ("log.txt", "config.txt"):
        assert '{"epoch": 3, "se' in (run / name).read_text().splitlines()


def test_a_new_run_does_not_begin_where_a_test_is_at_work(launch, experiments, capfd):
    """It would move the folder, and the test's figures would be the new run's."""
    assert launch("--save run") == 0
    assert launch("--save run --test_only") == 0
    before = {path: path.read_bytes() for path in (experiments / "run").rglob("*") if path.is_file()}
    hold = "import sys, fcntl, time; f = open(sys.argv[1], 'a+'); fcntl.lockf(f, fcntl.LOCK_SH); print(1); " \
           "time.sleep(60)"
    with subprocess.Popen([sys.executable, "-u", "-c", hold, str(experiments / "run" / ".tests")],
                          stdout=subprocess.PIPE, bufsize=0) as test:
        try:
            test.stdout.readline()
            for more in ("", "--reset"):
                assert launch(f"--save run {more}") == 2
                assert "--save ../experiment/run: a test is running in it; wait for it" in capfd.readouterr().err
            assert before == {path: path.read_bytes() for path in (experiments / "run").rglob("*") if path.is_file()}
            writing = experiments / "run" / "results-Tiny" / f"{UNFINISHED}one.png"
            writing.parent.mkdir(exist_ok=True)
            writing.touch()
            assert launch("--save run --test_only") == 0  # other tests may
            assert launch("--load run --epochs 2") == 0 and writing.exists()
        finally:
            test.kill()
    assert launch("--load run --epochs 3") == 0 and not writing.exists()
    assert launch("--save run") == 0


def test_a_second_training_run_is_kept_out_of_the_folder(launch, experiments, capfd):
    assert launch("--save run") == 0
    hold = f"import fcntl, time; f = open({str(experiments / 'run' / '.lock')!r}, 'w'); fcntl.lockf(f, 2); print(1); " \
           "time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", f"import sys; {hold}"], stdout=subprocess.PIPE, bufsize=0,
                          env={"PYTHONUNBUFFERED": "1"}) as other:
        try:
            other.stdout.readline()
            before = (experiments / "run" / "config.txt").read_text()
            for more in ("--load run", "--reset", ""):
                assert launch(f"--save run {more}") == 2
                assert "another process is training in it" in capfd.readouterr().err
            assert (experiments / "run" / "config.txt").read_text() == before
            assert launch("--save run --test_only") == 0
        finally:
            other.kill()
    assert launch("--save run --load run") == 0


def test_two_runs_of_one_seed_are_the_same_with_any_number_of_workers(launch, experiments, undisturbed):
    for workers in (0, 2):
        assert launch(flags("again", False, f"--reset --n_threads {workers}")) == 0
        assert not differences(undisturbed(False), checkpoint(experiments, "again"))


def test_two_quantized_runs_of_one_seed_are_the_same_with_any_number_of_workers(launch, experiments):
    for save, workers in (("one", 0), ("same", 0), ("two", 2), ("too", 2)):
        options = flags(save, True, f"--n_threads {workers}").replace("--epochs 7", "--epochs 2")
        assert launch(options, quantized=True) == 0
        assert not differences(checkpoint(experiments, "one"), checkpoint(experiments, save))


def test_equal_runs_have_equal_files(launch, experiments):
    for save in ("one", "two"):
        assert launch(flags(save, True).replace("7", "2"), quantized=True) == 0
    one, two = ((experiments / save / "model" / "checkpoint.pth.tar").read_bytes() for save in ("one", "two"))
    assert one == two


def test_another_seed_is_another_run(launch, experiments, undisturbed):
    assert launch(flags("other", False, "--seed 2")) == 0
    assert differences(undisturbed(False)["state_dict"], checkpoint(experiments, "other")["state_dict"])


def test_observations_of_a_calibration_cut_in_two_are_kept(launch, experiments, in_step):
    in_step(3, die)
    with pytest.raises(Killed):
        launch(flags("killed", True), quantized=True)
    observations = checkpoint(experiments, "killed")["objective"]["schedule"]["observations"]
    assert [len(pairs) for pairs in observations.values()] == [2, 2, 2]
    assert all(isinstance(name, str) and name.startswith("body.0.act") for name in observations)


def run_script(*flags):
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, timeout=600)


def test_killed_at_random_moments_for_real():
    done = run_script("--full_precision", "--kills", "4", "--batches", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same to the bit, nothing left over" in done.stdout


@pytest.mark.slow
def test_quantized_run_killed_20_times_for_real():
    done = run_script("--kills", "20", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
