import pytest
import torch

from engine import evaluator
from engine.device import wait_for
from engine.run_folder import RunFolder
from utility import UserError

NETWORK = {"model": "edsr", "scale": 1, "k_bits": 32, "rgb_range": 255}


class OneImage(list):
    name = "Set1"
    luma = True
    border = 2


def test_the_clock_is_read_when_the_device_is_done(tmp_path, monkeypatch):
    events = []

    def noting(name, value):
        return lambda *_: (events.append(name), value)[1]

    monkeypatch.setattr(evaluator, "wait_for", noting("wait", None))
    monkeypatch.setattr(evaluator.time, "perf_counter", noting("clock", 0.0))
    network = torch.nn.Conv2d(3, 3, 1)
    network.register_forward_hook(noting("forward", None))
    image = torch.rand(3, 24, 24) * 255
    test = evaluator.Evaluator([OneImage([(image, image, "a")])], run=RunFolder(tmp_path), device=torch.device("cpu"),
                               **NETWORK)
    test(network, 1)
    at = events.index("forward")
    assert events[at - 2 : at + 3] == ["wait", "clock", "forward", "wait", "clock"]


def test_waiting_for_a_device(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("cuda"))
    wait_for(torch.device("cpu"))
    wait_for(torch.device("cuda", 0))
    assert calls == ["cuda"]


def test_values_that_are_not_finite_are_no_result(tmp_path):
    network = torch.nn.Conv2d(3, 3, 1)
    network.weight.data.fill_(float("inf"))
    image = torch.rand(3, 24, 24) * 255
    test = evaluator.Evaluator([OneImage([(image, image, "a")])], run=RunFolder(tmp_path), device=torch.device("cpu"),
                               **NETWORK)
    with pytest.raises(UserError, match="Set1, a: the network makes values that are not finite"):
        test(network, 1)
    assert not (tmp_path / "eval.txt").exists()
