import os

import pytest
import torch

import model
from examples import ROOT, demo
from option import parse_options

TINY = "--n_resblocks 1 --pre_train tiny.pt --epochs 7 --steps 1"


def test_every_step_parses():
    for program, *flags in demo.steps(demo.parse([])):
        if program.endswith(".py"):
            parse_options(flags, quantized=program == "main_limitrange_incremental.py")


def test_the_whole_schedule_is_run():
    flags = demo.steps(demo.parse([]))[2][1:]
    assert parse_options(flags, quantized=True).epochs >= 7


def test_it_starts_from_what_is_shipped():
    assert demo.parse([]).pre_train.is_file()


def test_a_failing_step_ends_the_demo(monkeypatch):
    ran = []
    monkeypatch.setattr(demo, "run", lambda step: ran.append(step) or (3 if len(ran) == 2 else 0))
    assert demo.main([]) == 3
    assert len(ran) == 2


@pytest.mark.slow
def test_from_photographs_to_the_picture(tmp_path, monkeypatch, capfd):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    torch.save(model.NETWORKS["edsr"](scale=4, n_resblocks=1).state_dict(), "tiny.pt")
    assert demo.main(TINY.split()) == 0
    told = capfd.readouterr().out
    table = [line.split() for line in told.partition("DemoSet x4  ")[2].splitlines()]
    assert [row[0] for row in table[1:4]] == ["bicubic", "full", "DDTB"]
    assert table[1][1:] == ["28.53", "0.8046"]
    picture = tmp_path / "experiment" / "demo" / "comparison.png"
    assert f"picture: {picture}" in told and picture.is_file()
    assert len(list((tmp_path / "experiment" / "demo").glob("*/results-DemoSet/*_SR.png"))) == 6
