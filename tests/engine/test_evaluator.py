import itertools
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from data.pictures import picture_of
from engine import evaluator
from engine.device import wait_for
from engine.run_folder import RunFolder
from metrics.pairs import find_pairs
from utility import UNFINISHED_TEST, Stopped, UserError

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


class Set(OneImage):
    has_hr = True

    def picture(self, index, sr):
        return picture_of(sr)


def images(*names):
    generator = torch.Generator().manual_seed(0)
    return Set([(torch.randint(0, 256, (3, 24, 24), generator=generator).float(),
                 torch.randint(0, 256, (3, 24, 24), generator=generator).float(), name) for name in names])


class Counting(torch.nn.Conv2d):
    """Says which images it has got, and is stopped at one of them."""

    def __init__(self, stopped_at=-1):
        torch.manual_seed(0)
        super().__init__(3, 3, 1)
        self.seen, self.stopped_at = 0, stopped_at

    def forward(self, x):
        if self.seen == self.stopped_at:
            raise Stopped(signal.SIGTERM)
        self.seen += 1
        return super().forward(x)


class FullDisk(Set):
    """No picture but the first `room` ones can be written."""

    room = 0

    def picture(self, index, sr):
        made = super().picture(index, sr)
        return made if index < self.room else SimpleNamespace(write=self.refuse)

    def refuse(self, path):
        raise UserError(f"{path}: can't be written (No space left on device)")


class Refusal(threading.Event):
    """Set when a picture could not be written, and the future says so."""

    def writer(self, **how):
        executor = ThreadPoolExecutor(**how)
        submit = executor.submit

        def submit_and_note(*args):
            future = submit(*args)
            future.add_done_callback(lambda done: done.exception() and self.set())
            return future

        executor.submit = submit_and_note
        return executor


@pytest.mark.parametrize("room, before_the_figures", [(0, True), (3, False), (3, True)])
def test_pictures_that_cannot_be_written_end_a_test_soon_and_cost_no_figures_that_are_there(
        tmp_path, monkeypatch, room, before_the_figures, caplog):
    test_set = FullDisk(images(*"abcd"))
    test_set.room = room
    refusal = Refusal()
    monkeypatch.setattr(evaluator, "ThreadPoolExecutor", refusal.writer)
    network = Counting()
    waiting = network.forward
    network.forward = lambda x: (network.seen > room and refusal.wait(60), waiting(x))[1]
    report = evaluator.Evaluator._report
    monkeypatch.setattr(evaluator.Evaluator, "_report", lambda *args: (
        before_the_figures and refusal.wait(60), report(*args))[1])
    test = evaluator.Evaluator([test_set], run=RunFolder(tmp_path), device=torch.device("cpu"), save_results=True,
                               **NETWORK)
    with caplog.at_level("INFO"), pytest.raises(UserError, match="No space left on device"):
        test(network, 0)
    assert (network.seen < 4) == (room == 0)
    assert ("PSNR" in caplog.text) == (room == 3) and not (tmp_path / "eval.txt").exists()


def test_figures_are_told_before_eval_txt_is_written(tmp_path, caplog):
    run = RunFolder(tmp_path / "gone")
    test = evaluator.Evaluator([images("a")], run=run, device=torch.device("cpu"), **NETWORK)
    with caplog.at_level("INFO"), pytest.raises(UserError, match="eval.txt: can't be written"):
        test(Counting(), 0)
    assert "[Set1 x1]\tPSNR: " in caplog.text


def continuing(folder, test_set, **more):
    how = {"tested": {"sha256": "a"}, "save_results": True} | more
    return evaluator.Evaluator([test_set], run=RunFolder(folder), device=torch.device("cpu"), **NETWORK, **how)


def last_result(folder):
    return json.loads((folder / "eval.txt").read_text().splitlines()[-1])


def test_a_test_that_was_stopped_goes_on_after_the_images_that_are_done(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(evaluator.time, "perf_counter", lambda: next(clock))
    (tmp_path / "whole").mkdir()
    whole = Counting()
    continuing(tmp_path / "whole", images(*"abcd"))(whole, 0)
    with pytest.raises(Stopped):
        continuing(tmp_path, images(*"abcd"))(Counting(stopped_at=3), 0)
    with open(tmp_path / "tested-Set1.jsonl", "a") as file:
        file.write('{"key": "half')  # of a killed process
    network = Counting()
    continuing(tmp_path, images(*"abcd"))(network, 0)
    assert (whole.seen, network.seen) == (4, 1)
    assert last_result(tmp_path) == last_result(tmp_path / "whole")
    assert last_result(tmp_path)["seconds"] == last_result(tmp_path)["images"] == 4
    assert not (tmp_path / "tested-Set1.jsonl").exists()
    continuing(tmp_path, images(*"abcd"))(network := Counting(), 0)
    assert network.seen == 4  # what is finished is tested anew


@pytest.mark.parametrize("change, tested", [
    ({}, 1), ({"tested": {"sha256": "b"}}, 4), ({"self_ensemble": True}, 4 * 8), ({"backend": "onnx"}, 4),
    ({"save_gt": True}, 4), ({"tested": None}, 4)])
def test_images_that_another_test_has_done_are_tested(tmp_path, change, tested):
    with pytest.raises(Stopped):
        continuing(tmp_path, images(*"abcd"))(Counting(stopped_at=3), 0)
    network = Counting()
    continuing(tmp_path, images(*"abcd"), **change)(network, 0)
    assert network.seen == tested


@pytest.mark.parametrize("change", ["pixel", "picture", "border"])
def test_an_image_that_has_changed_is_tested_again(tmp_path, change):
    with pytest.raises(Stopped):
        continuing(tmp_path, images(*"abcd"))(Counting(stopped_at=3), 0)
    test_set = images(*"abcd")
    if change == "pixel":
        test_set[1][1][0, 0, 0] += 1
    elif change == "picture":
        (tmp_path / "results-Set1" / "32bit_b_x1_SR.png").unlink()
    else:
        test_set.border = 3
    continuing(tmp_path, test_set)(network := Counting(), 0)
    assert network.seen == {"pixel": 2, "picture": 2, "border": 4}[change]
    assert (tmp_path / "results-Set1" / "32bit_b_x1_SR.png").is_file()


def test_pictures_that_another_network_has_made_meanwhile_are_made_again(tmp_path):
    with pytest.raises(Stopped):
        continuing(tmp_path, images(*"abcd"))(Counting(stopped_at=3), 0)
    other = Counting()
    other.weight.data.mul_(0.5)
    continuing(tmp_path, images(*"abcd"), tested=None)(other, 0)
    continuing(tmp_path, images(*"abcd"))(network := Counting(), 0)
    (tmp_path / "whole").mkdir()
    continuing(tmp_path / "whole", images(*"abcd"))(Counting(), 0)
    assert network.seen == 4
    for name in "abcd":
        found, expected = [(folder / "results-Set1" / f"32bit_{name}_x1_SR.png").read_bytes()
                           for folder in (tmp_path, tmp_path / "whole")]
        assert found == expected, name


def test_the_record_of_a_test_can_be_no_folder(tmp_path):
    (tmp_path / "tested-Set1.jsonl").mkdir()
    with pytest.raises(UserError, match="tested-Set1.jsonl: is a folder"):
        continuing(tmp_path, images("a"))(Counting(), 0)


def test_pictures_of_a_test_that_was_stopped_are_known(tmp_path):
    test_set = images(*"abc")
    made = evaluator.Evaluator([test_set], run=RunFolder(tmp_path), device=torch.device("cpu"), save_results=True,
                               model="edsr", scale=1, k_bits=4, rgb_range=255)
    folder, originals = tmp_path / f"results-{test_set.name}", tmp_path / "HR"
    for _, hr, name in test_set:
        picture_of(hr).write(originals / f"{name}.png")
    with pytest.raises(Stopped):
        made(Counting(stopped_at=1), 0)
    with pytest.raises(UserError, match="a test into it was stopped, or is at work"):
        find_pairs(originals, folder, scale=1)
    made(Counting(), 0)
    assert not (folder / UNFINISHED_TEST).exists() and len(find_pairs(originals, folder, scale=1).found) == 3
