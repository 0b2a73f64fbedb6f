"""`make networks`: the queue with tiny stages, stopped and continued."""

import json
import re
import shlex
from dataclasses import replace

import pytest
import torch

from examples import budgets, networks, stages
from examples.budgets import SHORT, Full, Low, Part
from model.torch_file import read_torch_file, save_torch_file
from option import parse_options
from utility import UserError

FULL = Full("edsr_x2", (Part(2, 8, 1e-4), Part(1, 8, 1e-5)), 0.1, batch=2)
LOW = Low("edsr_x2", 4, 6, 0.1, batch=2, patch=8)
COMPARED = replace(LOW, quantizer="minmax", shipped=False)


@pytest.fixture
def workplace(tiny_data, experiments, monkeypatch):
    """The working directory, with tiny data and an empty pretrained/; epochs of one step."""
    folder = experiments.parent / "pretrained"
    folder.mkdir()
    (folder / "models.json").write_text("[]")
    (folder / "README.md").write_text((stages.PRETRAINED / "README.md").read_text())
    monkeypatch.setattr(stages, "PRETRAINED", folder)
    monkeypatch.setattr(stages, "EPOCH", 1)
    monkeypatch.setattr(stages, "LOW_EPOCH", 1)
    monkeypatch.setattr(stages, "HELD_OUT", {"x": 1})
    monkeypatch.setattr(stages, "VALIDATED", {"edsr": 1})
    monkeypatch.setattr(networks, "SHORT", [LOW, COMPARED, FULL])
    (experiments.parent / "data" / "benchmark").mkdir(parents=True)
    (experiments.parent / "data" / "DIV2K").symlink_to(tiny_data / "DIV2K")
    (experiments.parent / "data" / "benchmark" / "Set5").symlink_to(tiny_data / "benchmark" / "Tiny")
    return experiments.parent


def test_every_stage_ends_listed_and_is_not_made_again(workplace, capfd):
    flags = ["--dir_data", str(workplace / "data"), "--jobs", "2"]
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


@pytest.mark.parametrize(("flags", "message"), [
    (["--only", "edsr_x5"], "--only edsr_x5: choose edsr_x2"), (["--jobs", "0"], "--jobs 0: give 1 or more"),
])
def test_what_the_queue_does_not_know(workplace, flags, message):
    with pytest.raises(UserError, match=message):
        networks.main(["--dir_data", str(workplace / "data"), *flags])


def test_photographs_too_few_to_keep_some(workplace, monkeypatch):
    monkeypatch.setattr(networks, "HELD_OUT", {"CID22": 3})
    (workplace / "photos" / "CID22").mkdir(parents=True)
    for name in "abc":
        (workplace / "photos" / "CID22" / f"{name}.png").write_bytes(b"")
    with pytest.raises(UserError, match="--photos .*CID22: 3 of its images are kept from training, it has 3"):
        networks.prepare(workplace / "photos", workplace / "data")


def test_another_budget_makes_a_network_again(workplace):
    (workplace / "pretrained" / "models.json").write_text(json.dumps(
        [{"file": "edsr_x2_4bit_minmax.pth.tar", "sha256": "", "recipe": stages.recipe(COMPARED)}]))
    assert stages.finished(COMPARED)
    assert not stages.finished(replace(COMPARED, steps=7))
    assert not stages.finished(LOW)


def test_a_stage_that_fails_is_told_and_the_others_go_on(workplace, monkeypatch, capfd):
    queue = networks.Queue([FULL, COMPARED], lambda stage: iter([["false"]] if stage is FULL else [["true"]]), jobs=1)
    assert queue.work() == 1
    told = capfd.readouterr().out
    assert "edsr_baseline_x2: failed (1)" in told
    assert queue.failed == [FULL]


def test_a_rate_goes_on_where_parked_weights_stopped():
    whole, rest = (dict(zip(flags[::2], flags[1::2], strict=True))
                   for flags in (stages.schedule(20, 4e-4), stages.schedule(20, 4e-4, done=11)))
    assert whole == {"--epochs": 20, "--lr": "0.0004", "--gamma": 0.7, "--decay": "8-10-12-13-14-15-16-17-18-19"}
    assert rest == {"--epochs": 9, "--lr": "0.000196", "--gamma": 0.7, "--decay": "1-2-3-4-5-6-7-8"}


def test_parts_that_were_finished_elsewhere_are_not_trained_again(workplace):
    unfinished = workplace / "pretrained" / "unfinished"
    data = stages.DataFlags(workplace / "data")
    parked = {"epochs": 2, "state_dict": {"weight": torch.ones(1)}}
    save_torch_file(parked, unfinished / "edsr_baseline_x2.1.pt")
    _, _, *flags = next(stages.commands(FULL, data, "cpu"))
    second = dict(zip(flags, flags[1:], strict=False))
    assert second["--save"] == "networks/edsr_baseline_x2.2"
    assert second["--pre_train"] == str(unfinished / "edsr_baseline_x2.1.pt")
    save_torch_file({**parked, "epochs": 1}, unfinished / "edsr_baseline_x2.2.pt")
    command = next(stages.commands(FULL, data, "cpu"))
    assert "--test_only" in command
    assert read_torch_file(workplace / "pretrained" / "edsr_baseline_x2.pt") == parked["state_dict"]


def test_the_budget_names_all_eighteen_networks_and_their_starts_come_first():
    published = {(f"{model}_x{scale}", bits) for model in budgets.RATIOS for scale in (2, 4) for bits in (2, 3, 4)}
    ddtb = {(stage.network, stage.k_bits) for stage in SHORT if isinstance(stage, Low) and stage.shipped}
    assert ddtb == published
    names = [stage.name for stage in SHORT]
    assert len(set(names)) == len(names)
    for place, stage in enumerate(SHORT):
        needed = stage.start if isinstance(stage, Full) else stage.network
        assert not needed or any(isinstance(other, Full) and other.network == needed for other in SHORT[:place])


def test_what_is_too_large_to_ship_is_made_again_elsewhere(workplace, monkeypatch):
    """RDN in full precision: its figures are listed, but its quantized networks need the file."""
    rdn = replace(FULL, network="rdn_x2")
    entry = {"file": "rdn_baseline_x2.pt", "recipe": stages.recipe(rdn), "sha256": ""}
    (workplace / "pretrained" / "models.json").write_text(json.dumps([entry]))
    assert not rdn.shipped and not stages.finished(rdn)
    (workplace / "pretrained" / "rdn_baseline_x2.pt").touch()
    assert stages.finished(rdn)


def test_a_budget_is_whole_epochs():
    for stage in SHORT:
        if isinstance(stage, Full):
            assert all(part.steps and part.steps % budgets.EPOCH == 0 for part in stage.parts), stage
        else:
            assert stage.steps >= budgets.LOW_EPOCH, stage


def test_paper_is_the_scripts(workplace, monkeypatch):
    ran = []
    monkeypatch.setattr(networks, "run_script", lambda words, dir_data: ran.append(words) or 0)
    monkeypatch.setattr(stages, "keep_full_precision", lambda file, path: ran.append(["keep", file.parts[2]]))
    assert networks.main(["--budget", "paper", "--only", "rdn_x2"]) == 0
    assert ran == [["baseline.sh", "rdn_x2"], ["keep", "rdn_baseline_x2"],
                   *(["run.sh", "rdn_x2", bits] for bits in "432")]


def test_flags_parse(workplace):
    data = stages.DataFlags(workplace / "data")
    for stage in (FULL, LOW, COMPARED):
        _, program, *flags = next(stages.commands(stage, data, "cpu"))
        parsed = parse_options(flags, quantized="limitrange" in program)
        assert (parsed.model, parsed.scale, parsed.batch_size) == ("edsr", 2, 2), shlex.join(flags)
