import numpy as np
import pytest

from data import demo_set
from data.images import read_image
from data.imresize import imresize
from utility import UserError


def test_training_and_test_photographs_differ_and_ship_with_scikit_image():
    names = demo_set.TRAIN + demo_set.TEST
    assert len(set(names)) == len(names)
    assert all(demo_set.photograph(name).is_file() for name in names)


def test_photographs_are_larger_than_the_usual_patch():
    assert all(min(read_image(demo_set.photograph(name)).shape[:2]) >= 192 for name in demo_set.TRAIN + demo_set.TEST)


def test_main_makes_both_sets_in_their_layouts_and_verifies_them_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_set, "TRAIN", ("coins.png",))
    monkeypatch.setattr(demo_set, "TEST", ("chelsea.png",))
    assert demo_set.main(["--out", str(tmp_path), "--scales", "2", "4"]) == 0
    train, test = tmp_path / "DIV2K", tmp_path / "benchmark" / "DemoSet"
    photograph = read_image(demo_set.photograph("chelsea.png"))
    assert (train / "DIV2K_train_HR" / "0001.png").is_file()
    assert (train / "DIV2K_train_LR_bicubic" / "X2" / "0001x2.png").is_file()
    assert np.array_equal(read_image(test / "HR" / "chelsea.png"), photograph)
    lr = read_image(test / "LR_bicubic" / "X4" / "chelseax4.png")
    assert np.array_equal(lr, imresize(photograph[:300, :448], 1 / 4))

    capsys.readouterr()
    assert demo_set.main(["--out", str(tmp_path), "--scales", "2", "4"]) == 0
    assert all(": 0 files written, 3 verified" in line for line in capsys.readouterr().out.splitlines())


def test_a_changed_image_is_told_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_set, "TRAIN", ("coins.png",))
    monkeypatch.setattr(demo_set, "TEST", ("chelsea.png",))
    demo_set.main(["--out", str(tmp_path)])
    changed = tmp_path / "DIV2K" / "DIV2K_train_HR" / "0001.png"
    changed.write_bytes((tmp_path / "benchmark" / "DemoSet" / "HR" / "chelsea.png").read_bytes())
    before = changed.read_bytes()
    assert demo_set.main(["--out", str(tmp_path)]) == 1
    assert str(changed) in capsys.readouterr().err
    assert changed.read_bytes() == before


def test_a_photograph_that_does_not_ship_is_named():
    with pytest.raises(UserError, match="no_such.png: missing from this scikit-image"):
        demo_set.photograph("no_such.png")
