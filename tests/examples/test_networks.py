"""`make networks`: the queue with tiny stages."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.images import write_png
from examples import budgets, environment, networks, results, stages
from examples.budgets import SHORT, FullPrecision, Phase, Quantized
from examples.listing import ListedNetwork, read_listed, write_listed
from examples.runs import continued, mark_finished
from model.edsr import EDSR
from model.saved import file_hash
from option import parse_options
from quant import QuantConfig, quantize
from quant.activation import quantizers
from quant.deploy.packed import write_packed
from utility import UserError, run_main

FULL = FullPrecision("edsr_x2", (Phase(2, 8, 1e-4, epoch=1), Phase(1, 8, 1e-5, epoch=1)), 0.1, batch=2)
LOW = Quantized("edsr_x2", 4, 6, 0.1, batch=2, patch=8)
COMPARED = replace(LOW, quantizer="minmax", shipped=False)


@pytest.fixture
def workplace(tiny_data, experiments, monkeypatch):
    """The working directory, with tiny data and an empty pretrained/; epochs of one step."""
    folder = experiments.parent / "pretrained"
    folder.mkdir()
    (folder / "models.json").write_text("[]")
    (folder / "README.md").write_text((stages.PRETRAINED / "README.md").read_text())
    monkeypatch.setattr(stages, "PRETRAINED", folder)
    monkeypatch.setattr(stages, "LOW_EPOCH", 1)
    monkeypatch.setattr(stages, "HELD_OUT", {"x": 1})
    monkeypatch.setattr(budgets, "VALIDATED", {"edsr_x2": 1, "rdn_x2": 1})
    monkeypatch.setattr(networks, "SHORT", [FULL, LOW, COMPARED])
    monkeypatch.setattr(budgets, "SHORT", [FULL, LOW, COMPARED])
    monkeypatch.setitem(results.BENCHMARKS, "Set5", len(os.listdir(tiny_data / "benchmark" / "Tiny" / "HR")))
    (experiments.parent / "data" / "benchmark").mkdir(parents=True)
    (experiments.parent / "data" / "DIV2K").symlink_to(tiny_data / "DIV2K")
    (experiments.parent / "data" / "benchmark" / "Set5").symlink_to(tiny_data / "benchmark" / "Tiny")
    return experiments.parent


def list_as_made(folder, stage, path=None):
    """An entry of a stage made by the budget's numbers, as `publish` writes it."""
    write_listed(folder, [*read_listed(folder), ListedNetwork(
        stages.output_file(stage).name, stage.model, stage.scale, stage.k_bits, file_hash(path) if path else "", {},
        shipped=stage.shipped, recipe=stages.recipe(stage))])


def test_every_stage_ends_listed_and_is_not_made_again(workplace, capfd):
    flags = ["--dir_data", str(workplace / "data")]
    assert networks.main(flags) == 0
    entries = {entry["file"]: entry for entry in json.loads((workplace / "pretrained" / "models.json").read_text())}
    assert set(entries) == {"edsr_baseline_x2.pt", "edsr_x2_4bit.safetensors", "edsr_x2_4bit_minmax.pth.tar"}
    assert all(entry["results"]["Set5"][0] > 0 for entry in entries.values())
    assert "edsr_x2_4bit.safetensors" in (workplace / "pretrained" / "README.md").read_text()
    assert [entry["shipped"] for entry in entries.values()].count(False) == 1
    told = capfd.readouterr().out
    assert told.index("edsr_baseline_x2: finished") < told.index("edsr_x2_4bit: begun")
    assert networks.main(flags) == 0
    assert capfd.readouterr().out == ""
    assert len(re.findall(r" done ", networks.overview([LOW, COMPARED, FULL]))) == 3
    assert networks.main([*flags, "--again", "--only", "edsr_x2_4bit"]) == 0
    told = capfd.readouterr().out
    assert "edsr_x2_4bit: finished" in told and "minmax" not in told and "baseline" not in told
    again = {entry["file"]: entry for entry in json.loads((workplace / "pretrained" / "models.json").read_text())}
    assert {name: entry["results"] for name, entry in again.items()} == {
        name: entry["results"] for name, entry in entries.items()}  # the same training, the same figures
    runs = stages.EXPERIMENT_ROOT / "networks"
    for folder in ("edsr_x2_4bit", "edsr_x2_4bit.old-1"):
        assert (runs / folder / "log.txt").read_text().count("[Epoch 7]") == 1
    assert not (runs / "edsr_baseline_x2.1.old-1").exists()


def test_a_network_that_it_does_not_know(workplace):
    with pytest.raises(UserError, match="--only edsr_x5: choose edsr_x2"):
        networks.main(["--dir_data", str(workplace / "data"), "--only", "edsr_x5"])


def test_photographs_too_few_to_keep_some(workplace, monkeypatch):
    monkeypatch.setattr(networks, "HELD_OUT", {"CID22": 3})
    (workplace / "photos" / "CID22").mkdir(parents=True)
    for name in "abc":
        (workplace / "photos" / "CID22" / f"{name}.png").write_bytes(b"")
    with pytest.raises(UserError, match="--photos .*CID22: 3 of its images are kept from training, it has 3"):
        networks.prepare(workplace / "photos", workplace / "data")


@pytest.mark.parametrize("made", ["nothing", "a file", "an empty folder"])
def test_photographs_that_are_not_there(workplace, made):
    photos = workplace / "nowhere"
    if made != "nothing":
        photos.write_bytes(b"") if made == "a file" else photos.mkdir()
    with pytest.raises(UserError, match="--photos .*nowhere: holds no folders of photographs"):
        networks.main(["--photos", str(photos), "--dir_data", str(workplace / "new")])
    assert not (workplace / "new").exists()


def test_a_photograph_that_cannot_be_read_ends_the_work(workplace, capfd):
    (workplace / "photos" / "A").mkdir(parents=True)
    (workplace / "photos" / "A" / "a.png").write_text("no picture")
    assert networks.main(["--photos", str(workplace / "photos"), "--dir_data", str(workplace / "new")]) == 1
    told = capfd.readouterr()
    assert "0001.png" in told.err and "Traceback" not in told.err and "begun" not in told.out


def test_photographs_that_have_changed_are_not_taken_for_those_that_are_there(workplace, monkeypatch):
    monkeypatch.setattr(networks, "HELD_OUT", {})
    prepared = []

    def run(command, **_):
        prepared.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(networks.subprocess, "run", run)
    photos, links = workplace / "photos", workplace / "new" / "photographs"
    (photos / "A").mkdir(parents=True)
    for name in "ac":
        (photos / "A" / f"{name}.png").write_bytes(b"")
    for _ in range(2):
        networks.prepare(photos, workplace / "new")
    photos = photos.rename(workplace / "moved")
    networks.prepare(photos, workplace / "new")
    assert [(link.name, link.resolve()) for link in sorted(links.iterdir())] == [
        ("0001.png", photos / "A" / "a.png"), ("0002.png", photos / "A" / "c.png")]
    (photos / "A" / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match="0002.png: is of other photographs than --photos .*another folder"):
        networks.prepare(photos, workplace / "new")
    assert len(prepared) == 3
    (photos / "A" / "b.png").unlink()
    (photos / "A" / "c.png").unlink()
    with pytest.raises(UserError, match="0002.png: is of other photographs"):
        networks.prepare(photos, workplace / "new")


def test_another_budget_makes_a_network_again(workplace, monkeypatch):
    list_as_made(workplace / "pretrained", COMPARED)
    assert stages.finished(COMPARED)
    assert not stages.finished(replace(COMPARED, steps=7))
    assert not stages.finished(LOW)
    monkeypatch.setattr(budgets, "SHORT", [replace(FULL, batch=3), LOW, COMPARED])
    assert not stages.finished(COMPARED)  # what it starts from is to be made by other numbers


def test_a_run_that_began_otherwise_is_kept_aside_and_not_continued(workplace):
    run = stages.folder_of("networks/edsr_x2_4bit")

    def begin(made_of, **how):
        flags = continued("networks/edsr_x2_4bit", made_of, **how)
        (run.path / "model").mkdir(exist_ok=True)
        run.checkpoint.write_text(json.dumps(made_of))
        return flags

    def aside(number):
        return run.path.with_name(f"edsr_x2_4bit.old-{number}")

    assert begin({"steps": 6}) == []
    assert begin({"steps": 6}) == begin({"steps": 6}, again=True) == ["--resume"]  # one that was stopped
    assert begin({"steps": 7}) == []
    assert (aside(1) / "model" / "checkpoint.pth.tar").read_text() == '{"steps": 6}'
    mark_finished("networks/edsr_x2_4bit")
    assert begin({"steps": 7}) == ["--resume"] and not aside(2).exists()
    assert begin({"steps": 7}, again=True) == [] and aside(2).exists()
    assert begin({"steps": 7}, again=True) == ["--resume"]
    for unreadable in ("", "[]"):
        (run.path / "made_of.json").write_text(unreadable)  # or begun by hand
        assert begin({"steps": 7}) == []
    assert aside(4).exists()


def test_a_folder_that_another_queue_trains_in_stays(workplace):
    continued("networks/edsr_x2_4bit", {"steps": 6})
    folder = stages.folder_of("networks/edsr_x2_4bit").path
    trains = "import sys, pathlib, engine.claims as claims\n" \
             "with claims.training(pathlib.Path(sys.argv[1])):\n    print(flush=True), input()"
    other = subprocess.Popen([sys.executable, "-c", trains, folder], env=environment(), text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(UserError, match="edsr_x2_4bit: another process is training in it"):
        continued("networks/edsr_x2_4bit", {"steps": 7})
    assert json.loads((folder / "made_of.json").read_text()) == {"steps": 6}
    other.communicate("\n")


def test_another_budget_trains_again_from_the_start(workplace, monkeypatch):
    flags = ["--dir_data", str(workplace / "data")]
    assert networks.main(flags) == 0
    before = (workplace / "pretrained" / "edsr_x2_4bit.safetensors").read_bytes()
    for module in (networks, budgets):
        monkeypatch.setattr(module, "SHORT", [FULL, replace(LOW, lr=1e-3)])
    assert networks.main(flags) == 0
    assert (workplace / "pretrained" / "edsr_x2_4bit.safetensors").read_bytes() != before
    assert (stages.EXPERIMENT_ROOT / "networks" / "edsr_x2_4bit.old-1").is_dir()
    assert "Learning rate: 1.00e-03" in (stages.EXPERIMENT_ROOT / "networks" / "edsr_x2_4bit" / "log.txt").read_text()


def test_the_first_stage_that_fails_ends_it_and_its_log_is_named(workplace, capfd):
    commands = {FULL: [["echo", "began"], ["false"]], COMPARED: [["true"]]}
    assert networks.work([FULL, COMPARED], commands.get) == 1
    *_, last = capfd.readouterr().out.splitlines()
    log = networks.log_file(FULL)
    assert last.endswith(f"edsr_baseline_x2: failed (exit code 1); see {log}")
    assert log.read_text() == "$ echo began\nbegan\n$ false\n"


def test_a_network_for_comparison_that_fails_holds_up_no_other(workplace, capfd):
    commands = {COMPARED: [["false"], ["echo", "never"]], FULL: [["true"]]}
    assert networks.work([COMPARED, FULL], commands.get) == 1
    told = capfd.readouterr().out
    assert f"{COMPARED.name}: failed (exit code 1)" in told and "edsr_baseline_x2: finished" in told
    assert "never" not in networks.log_file(COMPARED).read_text()


def test_that_a_compared_network_diverges_is_listed_and_not_tried_again(workplace, capfd):
    tells = "import sys; print(sys.argv[1], file=sys.stderr); sys.exit(2)"
    told = "error: loss L1, AT is not finite in epoch 2, by batch 100; lower --lr"
    commands = {COMPARED: [[sys.executable, "-c", tells, told]], LOW: [[sys.executable, "-c", tells, told]]}
    assert networks.work([COMPARED], commands.get) == 0
    assert f"{COMPARED.name}: diverges in epoch 2, and is listed so" in capfd.readouterr().out
    [entry] = read_listed(workplace / "pretrained")
    assert (entry.label, entry.results, entry.shipped) == ("min-max 4 bit, diverges in epoch 2", {}, False)
    assert stages.finished(COMPARED)
    assert not stages.finished(replace(COMPARED, lr=1e-3))
    assert networks.work([LOW], commands.get) == 1  # a network of the table has to be made
    assert not stages.finished(LOW)
    again = replace(COMPARED, steps=7)  # what an earlier try told is not this one's
    assert networks.work([again], {again: [["false"]]}.get) == 1
    assert networks.work([COMPARED], commands.get, again=True) == 0

    def lacking(stage):
        raise UserError("its start is missing")

    assert networks.work([again], lacking) == 1
    assert "error: its start is missing" in networks.log_file(again).read_text()


def test_a_signal_is_passed_on_and_the_child_may_save(workplace, capfd):
    saving = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(print('saved')))\n" \
             "print('on', flush=True)\nwhile True: time.sleep(0.1)"

    def commands(stage):
        threading.Thread(target=stop_when_on, daemon=True).start()
        yield [sys.executable, "-c", saving]
        raise AssertionError("goes on")

    def stop_when_on():
        while "\non\n" not in networks.log_file(FULL).read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    networks.log_file(FULL).parent.mkdir(parents=True)
    networks.log_file(FULL).touch()
    assert run_main(lambda: networks.work([FULL], commands)) == 130
    assert networks.log_file(FULL).read_text().endswith("\non\nsaved\n")
    assert "edsr_baseline_x2: stopped; the same command goes on" in capfd.readouterr().out


def test_a_signal_that_comes_while_the_child_starts_ends_it_too(workplace, monkeypatch, capfd):
    started, starting = [], subprocess.Popen

    def interrupted(*arguments, **more):
        started.append(starting(*arguments, **more))
        os.kill(os.getpid(), signal.SIGTERM)
        return started[0]

    monkeypatch.setattr(networks.subprocess, "Popen", interrupted)
    networks.log_file(FULL).parent.mkdir(parents=True)
    sleeping = [sys.executable, "-c", "while True: __import__('time').sleep(0.1)"]
    assert run_main(lambda: networks.work([FULL], lambda stage: iter([sleeping]))) == 143
    assert started[0].returncode == -15
    assert "edsr_baseline_x2: stopped; the same command goes on" in capfd.readouterr().out


def test_a_start_that_is_not_there_is_told(workplace):
    data = stages.DataFlags(workplace / "data")
    with pytest.raises(UserError, match="edsr_baseline_x2.pt: missing, and edsr_x2_4bit starts from it"):
        next(stages.commands(LOW, data, "cpu"))


def test_rates_fall_late():
    flags = stages.schedule(20, 4e-4)
    assert dict(zip(flags[::2], flags[1::2], strict=True)) == {
        "--epochs": 20, "--lr": 4e-4, "--gamma": 0.7, "--decay": "8-10-12-13-14-15-16-17-18-19"}


def test_the_budget_names_all_eighteen_networks_and_their_starts_come_first():
    published = {(f"{model}_x{scale}", bits) for model in budgets.RATIOS for scale in (2, 4) for bits in (2, 3, 4)}
    ddtb = {(stage.network, stage.k_bits) for stage in SHORT if isinstance(stage, Quantized) and stage.shipped}
    assert ddtb == published
    names = [stage.name for stage in SHORT]
    assert len(set(names)) == len(names)
    for place, stage in enumerate(SHORT):
        needed = stage.start if isinstance(stage, FullPrecision) else stage.network
        before = {other.network for other in SHORT[:place] if isinstance(other, FullPrecision)}
        assert not needed or needed in before


def test_what_is_too_large_to_ship_is_made_where_its_file_is_not(workplace):
    """RDN in full precision: its figures are listed, but its quantized networks need the file."""
    rdn, file = replace(FULL, network="rdn_x2"), workplace / "pretrained" / "rdn_baseline_x2.pt"
    file.write_bytes(b"weights")
    list_as_made(workplace / "pretrained", rdn, file)
    assert not rdn.shipped and stages.finished(rdn)
    file.write_bytes(b"others")
    assert not stages.finished(rdn)
    file.unlink()
    assert not stages.finished(rdn)


def test_what_is_not_shipped_begins_again_with_the_levels_of_a_quantized_network(workplace, monkeypatch):
    monkeypatch.setattr(FullPrecision, "shipped", False)
    monkeypatch.setattr(stages, "AGAIN", (Phase(2, 8, 1e-4, epoch=1),))
    pretrained = workplace / "pretrained"
    packed = pretrained / "edsr_x2_4bit.safetensors"
    low = quantize(EDSR(scale=2), QuantConfig(4))
    for quantizer in quantizers(low).values():
        quantizer.mark_bounds_set()
    write_packed(low, packed, source=pretrained / "models.json")
    for stage in (FULL, LOW, COMPARED):
        list_as_made(pretrained, stage, packed)
    assert networks.main(["--dir_data", str(workplace / "data")]) == 0
    start = torch.load(stages.EXPERIMENT_ROOT / "networks" / "edsr_baseline_x2.start.pt")
    again = torch.load(pretrained / "edsr_baseline_x2.pt")
    assert start.keys() == again.keys() == EDSR(scale=2).state_dict().keys()
    assert len(start["body.0.body.0.weight"].unique()) <= 16  # 4 bits
    assert 0 < (again["body.0.body.0.weight"] - start["body.0.body.0.weight"]).abs().max() < 1e-3  # two steps on
    listed = {entry.file: entry for entry in read_listed(pretrained)}
    assert listed["edsr_baseline_x2.pt"].again_from == file_hash(packed)
    assert stages.finished(FULL)
    assert stages.coarse_start(FULL) and not stages.coarse_start(replace(FULL, batch=3))
    assert stages.made_here(FULL).duration == 2 * FULL.seconds < FULL.duration


def test_a_budget_is_whole_epochs():
    assert all(phase.steps and phase.steps % phase.epoch == 0 for phase in budgets.AGAIN)
    for stage in SHORT:
        if isinstance(stage, FullPrecision):
            assert all(phase.steps and phase.steps % phase.epoch == 0 for phase in stage.parts), stage
        else:
            assert stage.steps and stage.steps % budgets.LOW_EPOCH == 0, stage


def test_paper_is_the_scripts_and_leaves_what_is_shipped(workplace, monkeypatch):
    """Stopped after the first quantized network's run has begun, it goes on with that."""
    ran = []
    monkeypatch.setattr(networks, "run_script", lambda words, dir_data: ran.append(words) or 0)
    low = stages.EXPERIMENT_ROOT / "output" / "rdnx2" / "4bit" / "model"
    low.mkdir(parents=True)
    (low / "checkpoint.pth.tar").touch()
    before = sorted((workplace / "pretrained").iterdir())
    assert networks.main(["--budget", "paper", "--only", "rdn_x2"]) == 0
    start = ["--pre_train", str(stages.EXPERIMENT_ROOT / "rdn_baseline_x2")]
    assert ran == [["baseline.sh", "rdn_x2"], ["run.sh", "rdn_x2", "4", "--resume"],
                   ["run.sh", "rdn_x2", "3", *start], ["run.sh", "rdn_x2", "2", *start]]
    assert sorted((workplace / "pretrained").iterdir()) == before


@pytest.mark.parametrize("flags, message", [
    (["--list"], "--list: is for --budget"), (["--again"], "--again: is for"), (["--photos", "x"], "--photos: "),
    (["--device", "gpu"], "--device: is"), (["--only", "edsr_x4_2bit"], "--only edsr_x4_2bit: choose")])
def test_flags_that_paper_does_not_read_are_refused(monkeypatch, flags, message):
    monkeypatch.setattr(networks, "run_script", lambda *_: pytest.fail("begins to train"))
    with pytest.raises(UserError, match=re.escape(message)):
        networks.main(["--budget", "paper", *flags])


def test_what_a_command_warns_of_and_what_it_lacks_is_noted(workplace, capfd):
    warns = [sys.executable, "-c", "for _ in range(2): print('warning: other images')"]
    assert networks.work([FULL], {FULL: [warns]}.get) == 0
    assert capfd.readouterr().out.count("edsr_baseline_x2: warning: other images\n") == 1
    data = stages.DataFlags(workplace / "data")
    assert networks.work([COMPARED, LOW, FULL], lambda stage: stages.commands(stage, data, "cpu")) == 1
    told = capfd.readouterr().out
    for stage in (COMPARED, LOW):
        assert re.search(rf"{stage.name}: failed \(.*_baseline_x2.pt: missing, and {stage.name} starts from it", told)
    assert "edsr_baseline_x2: begun" not in told  # what others start from ends the work


def test_too_few_images_to_keep_some(workplace, monkeypatch):
    monkeypatch.setattr(stages, "HELD_OUT", {"CID22": 25})
    with pytest.raises(UserError, match="DIV2K_train_HR: 25 of its images are kept from training, it has no more"):
        networks.main(["--dir_data", str(workplace / "data")])


def test_flags_parse(workplace):
    data = stages.DataFlags(workplace / "data")
    (workplace / "pretrained" / "edsr_baseline_x2.pt").touch()
    for stage in (FULL, LOW, COMPARED):
        _, program, *flags = next(stages.commands(stage, data, "cpu"))
        parsed = parse_options(flags, quantized="limitrange" in program)
        assert (parsed.model, parsed.scale, parsed.batch_size) == ("edsr", 2, 2), shlex.join(flags)


def smooth_picture():
    rows, columns = np.mgrid[:96, :96]
    values = [127 + 60 * np.sin(rows / a) + 60 * np.cos(columns / b) for a, b in ((5, 9), (11, 4), (7, 6))]
    return np.rint(np.stack(values, 2)).astype(np.uint8)


@pytest.mark.parametrize("place", ["benchmark", "."])
def test_a_test_picture_among_the_photographs_ends_the_work_before_any_training(workplace, tiny_data, capfd, place):
    data = workplace / "own"
    shutil.copytree(tiny_data, data)
    write_png(data / "benchmark" / "Tiny" / "HR" / "one.png", smooth_picture())
    write_png(data / "DIV2K" / "DIV2K_train_HR" / "0003.png", smooth_picture())
    (data / "benchmark" / "Tiny").rename(data / place / "Set5")
    assert run_main(lambda: networks.main(["--dir_data", str(data)])) == 2
    told = capfd.readouterr()
    assert re.fullmatch(r"error: \S*DIV2K_train_HR/0003.png: is a test picture, \S*Set5/HR/one.png; take it out, and "
                        r"its LR images \(1 in all\)\n", told.err)
    assert "begun" not in told.out


def test_the_advice_for_a_test_picture_among_the_photographs_helps(workplace, tiny_data, monkeypatch, capfd):
    monkeypatch.setattr(networks, "HELD_OUT", {})
    data, photos = workplace / "own", workplace / "photos" / "A"
    shutil.copytree(tiny_data / "benchmark" / "Tiny", data / "benchmark" / "Set5")
    shutil.copytree(tiny_data / "DIV2K" / "DIV2K_train_HR", photos)
    shutil.copy(data / "benchmark" / "Set5" / "HR" / "one.png", photos / "0000.png")
    flags = ["--photos", str(photos.parent), "--only", "edsr_baseline_x2"]
    assert run_main(lambda: networks.main([*flags, "--dir_data", str(data)])) == 2
    told = capfd.readouterr().err
    assert f"take {photos / '0000.png'} out of --photos, and give --dir_data a new folder" in told
    (photos / "0000.png").unlink()
    shutil.copytree(data / "benchmark", workplace / "new" / "benchmark")
    monkeypatch.setattr(networks, "work", lambda chosen, *_, **__: [stage.name for stage in chosen])
    assert networks.main([*flags, "--dir_data", str(workplace / "new")]) == ["edsr_baseline_x2"]


def test_pictures_that_no_stage_tests_do_not_matter(workplace, tiny_data):
    data = workplace / "own"
    shutil.copytree(tiny_data, data)
    (data / "benchmark" / "Tiny").rename(data / "Set5")
    shutil.copytree(data / "DIV2K" / "DIV2K_train_HR", data / "benchmark" / "Mine" / "HR")
    (data / "benchmark" / "Other" / "HR").mkdir(parents=True)
    (data / "benchmark" / "Other" / "HR" / "a.png").write_text("no picture")
    stages.DataFlags(data).check_apart({2})


def test_missing_benchmark_sets_are_told_before_training(workplace, capfd):
    (workplace / "data" / "benchmark" / "Set5").unlink()
    assert run_main(lambda: networks.main(["--dir_data", str(workplace / "data")])) == 2
    assert "holds none of Set5" in capfd.readouterr().err
    assert not (stages.EXPERIMENT_ROOT / "networks" / "edsr_baseline_x2.1").exists()


@pytest.mark.parametrize(("name", "value"), [("LOW_EPOCH", 2), ("DECAY", (0.5,)), ("GAMMA", 0.5),
                                             ("HELD_OUT", {"x": 2}), ("RATIOS", {"edsr": 0.9}),
                                             ("VALIDATED", {"edsr_x2": 2})])
def test_every_number_of_the_budget_is_part_of_a_network(monkeypatch, name, value):
    monkeypatch.setattr(budgets, "SHORT", [FULL, LOW])
    before = budgets.recipe(LOW)
    monkeypatch.setattr(budgets, name, value)
    assert budgets.recipe(LOW) != before


def test_a_failing_disk_is_a_failure_like_others(workplace, capfd):
    def commands(stage):
        if stage is COMPARED:
            raise OSError(28, "No space left on device")
        yield ["true"]

    networks.log_file(COMPARED).mkdir(parents=True)  # neither log nor journal can be written
    (stages.EXPERIMENT_ROOT / "networks" / "journal.txt").symlink_to("/dev/full")
    assert networks.work([COMPARED, LOW], commands) == 1
    told = capfd.readouterr().out
    assert "minmax: failed ([Errno 28] No space left on device)" in told and "edsr_x2_4bit: finished" in told


def test_the_journal_says_what_a_command_ended_with(workplace, capfd):
    tells = "import sys; print('error: one'); print('error: another process trains'); sys.exit(2)"
    assert networks.work([LOW], lambda stage: [[sys.executable, "-c", tells]]) == 1
    assert "edsr_x2_4bit: failed (another process trains)" in capfd.readouterr().out


def test_a_compared_network_without_a_best_epoch_keeps_its_last(workplace):
    stages.full_precision_file("edsr_x2").write_bytes(b"weights")
    steps = stages.low_commands(COMPARED, stages.DataFlags(workplace / "data"), False)
    assert next(steps)[0] == "main_limitrange_incremental.py"
    last = stages.folder_of(f"networks/{COMPARED.name}").checkpoint
    last.parent.mkdir(parents=True)
    last.write_bytes(b"a checkpoint")  # as after four epochs: none counts as the best before the sixth
    assert list(steps) == []
    assert stages.output_file(COMPARED).read_bytes() == b"a checkpoint"
