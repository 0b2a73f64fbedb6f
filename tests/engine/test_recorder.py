import logging
import sys

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
