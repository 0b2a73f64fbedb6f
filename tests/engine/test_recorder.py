import logging
import shlex
import shutil
import sys
import types

import pytest

from engine.recorder import Recorder
from engine.run_folder import RunFolder


def test_without_tensorboard_a_run_keeps_its_other_curves(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recorder = Recorder(RunFolder(tmp_path))
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            recorder.add_epoch(epoch, losses={"L1": 2.0}, results={"Set5": {"psnr": 30.0, "ssim": 0.9}}, rate=1e-4,
                               scalars={"bounds/act/upper": 1.0})
    assert [record.getMessage() for record in caplog.records] == [
        "no curves for TensorBoard: it is not installed (pip install tensorboard)"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_L1.png", "psnr_Set5.png"]


@pytest.mark.parametrize("failing", ["import", "writing"])
def test_what_fails_in_tensorboard_ends_its_curves_alone(tmp_path, monkeypatch, caplog, failing):
    """As its import does where another program's protobuf is installed."""

    class Board:
        def __init__(self, *_, **__):
            if failing == "import":
                raise TypeError("Descriptors cannot be created directly.\nLong advice follows.")

        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Board))
    recorder = Recorder(RunFolder(tmp_path))
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            recorder.add_epoch(epoch, losses={"L1": 2.0}, results={}, rate=1e-4, scalars={})
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("no more curves for TensorBoard: ") and "\n" not in told
    assert ("Descriptors" if failing == "import" else "No space left") in told
    assert (tmp_path / "loss_L1.png").exists()


@pytest.mark.parametrize("name", ["cost$_$", r"We\Set", "L" * 120])
def test_a_set_may_have_any_name(name, launch, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "data" / "benchmark" / "Tiny").rename(tmp_path / "data" / "benchmark" / name)
    flags = f"--dir_data {tmp_path / 'data'} --data_test {shlex.quote(name)}"
    assert launch(f"--save run {flags}") == 0
    assert launch(f"--load run --epochs 2 {flags}") == 0
