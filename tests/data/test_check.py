import numpy as np
import pytest
from PIL import Image

from data import check
from utility import UserError


def make_set(root, hr, lr, names=("a", "b"), size=(25, 18), scales=(2, 3)):
    """Empty pictures in the layout of datasets/README.md; `hr`, `lr`: folder names."""
    for scale in (1, *scales):
        folder, suffix = (root / hr, "") if scale == 1 else (root / lr / f"X{scale}", f"x{scale}")
        folder.mkdir(parents=True)
        for name in names:
            Image.new("RGB", (size[0] // scale, size[1] // scale)).save(folder / f"{name}{suffix}.png")


@pytest.fixture
def dir_data(tmp_path):
    make_set(tmp_path / "DIV2K", "DIV2K_train_HR", "DIV2K_train_LR_bicubic", names=("0001", "0002"))
    make_set(tmp_path / "benchmark" / "Set5", "HR", "LR_bicubic", names="abcde")
    return tmp_path


def run(dir_data, capsys):
    code = check.main(["--dir_data", str(dir_data)])
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines() if line]
    return code, {(line[0], line[1]): line[2:] for line in lines}


def test_all_is_fine(dir_data, capsys):
    code, table = run(dir_data, capsys)
    assert code == 0
    assert table["DIV2K", "HR"][0] == "2" and table["DIV2K", "HR"][1].startswith("ok, but DIV2K itself has 800")
    for part in ("HR", "X2", "X3"):
        assert table["Set5", part] == ["5", "ok"]
    assert table["Set14", "-"] == table["Urban100", "-"] == ["-", "not here"]
    assert ("Set5", "X4") not in table


def test_unpaired_names(dir_data, capsys):
    set5 = dir_data / "benchmark" / "Set5"
    (set5 / "LR_bicubic/X2/bx2.png").unlink()
    (set5 / "LR_bicubic/X3/cx3.png").rename(set5 / "LR_bicubic/X3/zx3.png")
    code, table = run(dir_data, capsys)
    assert code == 1
    assert table["Set5", "X2"] == ["4", "no LR image for b"]
    assert table["Set5", "X3"] == ["5", "no LR image for c; no HR image for z"]


def test_two_images_of_one_name_are_named(dir_data, capsys):
    hr = dir_data / "benchmark" / "Set5" / "HR"
    (hr / "b.bmp").write_bytes((hr / "b.png").read_bytes())
    code, table = run(dir_data, capsys)
    assert code == 1 and "several images called: b" in table["Set5", "HR"][1]


def test_counts(dir_data, capsys):
    for path in (dir_data / "benchmark" / "Set5").rglob("a*.png"):
        path.unlink()
    code, table = run(dir_data, capsys)
    assert code == 1 and table["Set5", "HR"] == ["4", "Set5 has 5 images"] and table["Set5", "X2"] == ["4", "ok"]


def test_long_lists_are_cut(dir_data, capsys):
    for name in "abcde":
        (dir_data / "benchmark/Set5/HR" / f"{name}.png").unlink()
    code, table = run(dir_data, capsys)
    assert code == 1 and table["Set5", "HR"] == ["0", "no HR images"]
    assert table["Set5", "X2"] == ["5", "no HR image for a, b, c and 2 more"]


def test_sizes_and_names(dir_data, capsys):
    folder = dir_data / "DIV2K/DIV2K_train_LR_bicubic/X2"
    Image.new("RGB", (13, 9)).save(folder / "0001x2.png")
    Image.new("RGB", (12, 9)).save(folder / "0002.png")
    code, table = run(dir_data, capsys)
    assert code == 1
    assert table["DIV2K", "X2"][1] == "name does not end in x2: 0002.png; wrong size: 0001 (13x9, HR 25x18)"


def test_unreadable_files_are_named_and_others_ignored(dir_data, capsys):
    (dir_data / "benchmark/Set5/HR/a.png").write_bytes(b"no image")
    (dir_data / "benchmark/Set5/HR/Thumbs.db").write_bytes(b"no image")
    (dir_data / "benchmark/Set5/LR_bicubic/X2/.ax2.tmp.png").write_bytes(b"")
    code, table = run(dir_data, capsys)
    assert code == 1
    assert table["Set5", "HR"] == ["4", "unreadable: a.png; Set5 has 5 images"]
    assert table["Set5", "X2"] == ["5", "no HR image for a"]


def test_jpeg_inputs_are_a_set_of_their_own(dir_data, capsys):
    folder = dir_data / "DIV2K/DIV2K_Q75/X2"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((9, 12, 3), np.uint8)).save(folder / "0001x2.jpg")
    code, table = run(dir_data, capsys)
    assert code == 1 and table["DIV2K-Q75", "X2"] == ["1", "no LR image for 0002"]


def test_a_set_without_lr_images(dir_data, capsys):
    (dir_data / "benchmark/Mine/HR").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(dir_data / "benchmark/Mine/HR/a.png")
    code, table = run(dir_data, capsys)
    assert code == 1 and table["Mine", "LR"][1].startswith("no LR images")


def test_every_layout_that_training_takes(dir_data, capsys):
    make_set(dir_data / "Flickr2K", "Flickr2K_HR", "Flickr2K_LR_bicubic", names=("000001", "000002"))
    make_set(dir_data / "DIV2K", "DIV2K_valid_HR", "DIV2K_valid_LR_bicubic", names=("0801", "0802"))
    code, table = run(dir_data, capsys)
    assert code == 0 and table["Flickr2K", "X2"] == table["DIV2K-valid", "X3"] == ["2", "ok"]
    (dir_data / "Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png").unlink()
    (dir_data / "DIV2K/DIV2K_valid_LR_bicubic/X3/0802x3.png").unlink()
    code, table = run(dir_data, capsys)
    assert code == 1 and table["Flickr2K", "X2"] == ["1", "no LR image for 000001"]
    assert table["DIV2K-valid", "X3"] == ["1", "no LR image for 0802"]


def test_links_that_lead_nowhere_are_named(dir_data, capsys):
    (dir_data / "DIV2K/loop").symlink_to("loop")
    (dir_data / "loop").symlink_to("loop")
    (dir_data / "DIV2K/DIV2K_train_HR/0003.png").symlink_to("nowhere.png")
    code, table = run(dir_data, capsys)
    assert code == 1 and "unreadable: 0003.png" in table["DIV2K", "HR"][1]


def test_test_images_too_small_for_ssim(dir_data, capsys):
    make_set(dir_data / "benchmark" / "Mini", "HR", "LR_bicubic", size=(16, 40), scales=(2, 3))
    code, table = run(dir_data, capsys)
    assert code == 1 and table["Mini", "X2"] == ["2", "ok"]
    assert table["Mini", "X3"] == ["2", "too small to test with: a, b"]


def test_nothing_there(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="--dir_data"):
            check.main(["--dir_data", str(folder)])
