import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import prepare
from data.images import image_shape, read_image
from data.imresize import imresize
from utility import UserError


@pytest.fixture
def hr(tmp_path):
    """A folder of three images: two with sides of no multiple of 2, 3 or 4, one JPEG; and a file that is no image."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name, size in {"0001.png": (25, 30), "0002.jpg": (24, 36), "0003.png": (13, 17)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "Thumbs.db").write_text("not an image")
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "datasets" / "DIV2K"


def run(hr, out, *flags):
    return prepare.main(["--hr", str(hr), "--out", str(out), "--workers", "1", *flags])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_div2k_layout(hr, out, capsys, caplog):
    caplog.set_level("INFO")
    assert run(hr, out) == 0
    scales = [f"DIV2K_train_LR_bicubic/X{s}/{name}x{s}.png" for s in (2, 3, 4) for name in ("0001", "0002", "0003")]
    images = [f"DIV2K_train_HR/{name}.png" for name in ("0001", "0002", "0003")]
    assert sorted(files(out)) == sorted([*scales, *images, "prepare.json"])
    assert "12 files written, 0 verified" in capsys.readouterr().out
    assert "ignored" in caplog.text and "Thumbs.db" in caplog.text


def test_one_run_at_a_time_makes_a_set(hr, out):
    out.mkdir(parents=True)
    held = ("import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX); "
            "print(1, flush=True); input()")
    other = subprocess.Popen([sys.executable, "-c", held, out / prepare.LOCK_FILE], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(UserError, match="--out .*DIV2K: another data.prepare is at work in it; wait for it"):
        run(hr, out)
    assert [path.name for path in out.iterdir()] == [prepare.LOCK_FILE]
    other.communicate(b"\n")
    assert run(hr, out) == 0 and prepare.LOCK_FILE not in files(out)  # that of a run that was killed stops none


def test_a_lock_that_cannot_be_removed_while_it_is_open(hr, out, monkeypatch):
    """As on Windows."""
    def refuses(path, missing_ok=False):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "unlink", refuses)
    assert run(hr, out) == 0


def test_nothing_is_made_for_a_source_of_no_use(tmp_path, out):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run(tmp_path / "nowhere", out)
    assert not out.exists()


def test_pixels_and_sizes(hr, out):
    run(hr, out, "--border", "replicate")
    for source in ("0001.png", "0002.jpg", "0003.png"):
        whole = read_image(hr / source)
        name = source[:4]
        assert np.array_equal(read_image(out / f"DIV2K_train_HR/{name}.png"), whole)
        for scale in (2, 3, 4):
            height, width = whole.shape[0] // scale * scale, whole.shape[1] // scale * scale
            expected = imresize(whole[:height, :width], 1 / scale, border="replicate")
            lr = read_image(out / f"DIV2K_train_LR_bicubic/X{scale}/{name}x{scale}.png")
            assert np.array_equal(lr, expected)
            assert lr.shape == (whole.shape[0] // scale, whole.shape[1] // scale, 3)


def test_published_lr_images_come_out(shared, tmp_path):
    out = tmp_path / "Set5"
    flags = ["--layout", "benchmark", "--border", "replicate", "--scales", "2", "4"]
    assert run(shared / "data/benchmark/Set5/HR", out, *flags) == 0
    references = [(s, path) for s in (2, 4) for path in (shared / f"data/matlab_lr/Set5/X{s}").glob("*.png")]
    assert len(references) == 10
    for scale, path in references:
        assert np.array_equal(read_image(out / f"LR_bicubic/X{scale}/{path.name}"), np.asarray(Image.open(path)))


def test_eight_bit_rgb_png_is_copied_and_others_are_converted(hr, out):
    grey = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20))
    grey.save(hr / "0004.png")
    wide = np.arange(400, dtype=np.uint16).reshape(20, 20) * 100
    Image.fromarray(wide).save(hr / "0005.png")
    assert run(hr, out, "--scales", "2") == 0
    made = out / "DIV2K_train_HR"
    assert (made / "0001.png").read_bytes() == (hr / "0001.png").read_bytes()
    for name in ("0004.png", "0005.png"):
        assert np.array_equal(np.asarray(Image.open(made / name)), read_image(hr / name))
    assert not prepare._is_eight_bit_rgb_png(hr / "0002.jpg")


def test_a_turned_png_is_stored_as_it_is_seen(hr, out):
    """Its orientation may stand behind the pixels, where `image_shape` does not look."""
    exif = Image.Exif()
    exif[0x0112] = 6
    first = sorted(hr.iterdir())[0]
    for path in list(hr.iterdir()):
        path.unlink()
    path = hr / f"{first.stem}.png"
    Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)).save(path, exif=exif)
    content = path.read_bytes()
    at = content.index(b"eXIf") - 4
    size = 12 + int.from_bytes(content[at : at + 4], "big")
    path.write_bytes(content[:at] + content[at + size : -12] + content[at : at + size] + content[-12:])
    assert read_image(path).shape == (64, 48, 3)
    assert prepare.main(["--hr", str(hr), "--out", str(out), "--scales", "2"]) == 0
    (made,) = (out / "DIV2K_train_HR").iterdir()
    assert image_shape(made) == read_image(made).shape[:2] == (64, 48)


def test_benchmark_layout_keeps_names(hr, tmp_path):
    out = tmp_path / "datasets" / "benchmark" / "Mine"
    (hr / "0001.png").rename(hr / "a bird.png")
    assert run(hr, out, "--layout", "benchmark", "--scales", "4") == 0
    assert (out / "HR/a bird.png").is_file() and (out / "LR_bicubic/X4/a birdx4.png").is_file()
    assert not (out / "names.json").exists()


def test_other_names_are_numbered_and_numbers_stay(hr, out):
    (hr / "0002.jpg").rename(hr / "bird.jpg")
    assert run(hr, out, "--scales", "4") == 0
    assert json.loads((out / "names.json").read_text()) == {"0001": "0001.png", "0002": "0003.png", "0003": "bird.jpg"}
    shutil.copy(hr / "0003.png", hr / "ant.png")
    assert run(hr, out, "--scales", "4") == 0
    assert json.loads((out / "names.json").read_text())["0004"] == "ant.png"
    assert np.array_equal(read_image(out / "DIV2K_train_HR/0003.png"), read_image(hr / "bird.jpg"))
    assert np.array_equal(read_image(out / "DIV2K_train_HR/0004.png"), read_image(hr / "ant.png"))


def test_numbers_go_on_after_images_that_are_there(hr, out, tmp_path):
    run(hr, out, "--scales", "4")
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(hr / "0001.png", more / "bird.png")
    assert run(more, out, "--scales", "4") == 0
    assert (out / "DIV2K_train_LR_bicubic/X4/0004x4.png").is_file()


def test_images_that_had_numbers_for_names_keep_them_when_others_are_added(hr, out, tmp_path, capsys):
    folder = tmp_path / "numbers"
    folder.mkdir()
    for number in ("0001", "0003"):
        shutil.copy(hr / "0001.png", folder / f"{number}.png")
    assert run(folder, out) == 0
    shutil.copy(hr / "0002.jpg", folder / "a.jpg")
    shutil.copy(hr / "0002.jpg", folder / "0002.jpg")  # its number is free, but nothing is there under it
    capsys.readouterr()
    assert run(folder, out) == 0
    assert "more HR images" not in capsys.readouterr().out
    assert json.loads((out / "names.json").read_text()) == {"0001": "0001.png", "0003": "0003.png", "0004": "0002.jpg",
                                                            "0005": "a.jpg"}
    assert run(folder, out) == 0


def test_second_run_verifies_and_writes_nothing(hr, out, capsys):
    run(hr, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert run(hr, out) == 0
    assert "0 files written, 12 verified" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}


def test_images_that_hr_no_longer_has_are_told(hr, out, capsys):
    run(hr, out)
    assert "that --hr has not" not in capsys.readouterr().out
    (hr / "0003.png").unlink()
    assert run(hr, out) == 0
    told = capsys.readouterr().out
    assert "1 more HR images belong to the set that --hr has not, such as" in told and "0003.png" in told


def test_a_run_that_was_cut_off_goes_on(hr, out, capsys, monkeypatch):
    write_png, calls = prepare.write_png, []

    def full_disk(path, pixels):
        calls.append(path)
        if len(calls) >= 5:
            raise UserError(f"{path}: cannot be written: No space left on device")
        write_png(path, pixels)

    monkeypatch.setattr(prepare, "write_png", full_disk)
    with pytest.raises(UserError, match="No space left"):
        run(hr, out)
    monkeypatch.setattr(prepare, "write_png", write_png)
    capsys.readouterr()
    assert run(hr, out) == 0
    assert re.search("(7 files written, 5|6 files written, 6) verified", capsys.readouterr().out)  # 0003 may have begun
    whole = files(out)
    shutil.rmtree(out)
    run(hr, out)
    assert files(out) == whole


def test_hr_images_that_lie_in_place_already(hr, out, capsys):
    (hr / "0002.jpg").unlink()
    shutil.copytree(hr, out / "DIV2K_train_HR")
    assert run(out / "DIV2K_train_HR", out, "--scales", "3") == 0
    assert "2 files written, 2 verified" in capsys.readouterr().out


def test_names_stay_when_a_scale_is_added_in_place(hr, out, capsys):
    (hr / "0001.png").rename(hr / "bird.png")
    run(hr, out, "--scales", "2")
    numbers = (out / "names.json").read_bytes()
    capsys.readouterr()
    assert run(out / "DIV2K_train_HR", out, "--scales", "2", "4") == 0
    assert "3 files written, 6 verified" in capsys.readouterr().out
    assert (out / "names.json").read_bytes() == numbers


def test_other_formats_are_not_converted_in_place(hr, out):
    shutil.copytree(hr, out / "DIV2K_train_HR")
    with pytest.raises(UserError, match="0002.jpg is no .png"):
        run(out / "DIV2K_train_HR", out)


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n\x1a\n cut off"])
def test_unreadable_images_are_named_and_the_others_made(hr, out, capsys, broken):
    (hr / "0001.png").write_bytes(broken)
    assert run(hr, out) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {hr / '0001.png'}: ") and captured.err.count("\n") == 1
    assert "8 files written" in captured.out
    assert not list(out.rglob("0001*"))


def test_an_image_too_small_for_a_scale_is_left_out_whole(hr, out, capsys):
    Image.new("RGB", (9, 3)).save(hr / "0004.png")
    assert run(hr, out) == 1
    assert "0004.png: 9x3 pixels are too few for scale 4" in capsys.readouterr().err
    assert not list(out.rglob("0004*"))


@pytest.mark.parametrize("file", ["DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X3/0002x3.png"])
@pytest.mark.parametrize("content", ["other pixels", "no image"])
def test_files_that_differ_are_not_overwritten_and_nothing_is_written(hr, out, capsys, file, content):
    run(hr, out)
    (out / "DIV2K_train_LR_bicubic/X4/0003x4.png").unlink()
    if content == "no image":
        (out / file).write_bytes(b"")
    else:
        Image.fromarray(read_image(out / file) ^ 1).save(out / file)
    before = files(out)
    capsys.readouterr()
    assert run(hr, out) == 1
    captured = capsys.readouterr()
    assert f"{out / file}: differs" in captured.err and "nothing was written" in captured.out
    assert files(out) == before


def test_an_hr_image_in_place_of_its_lr_image_is_noticed(hr, out):
    run(hr, out, "--scales", "2")
    shutil.copy(hr / "0001.png", out / "DIV2K_train_LR_bicubic/X2/0001x2.png")
    assert run(hr, out, "--scales", "2") == 1


@pytest.mark.parametrize("flags", [["--border", "replicate"], ["--layout", "benchmark"], ["--scales", "4"]])
def test_borders_layouts_and_scales_are_not_mixed(hr, out, flags):
    run(hr, out, "--scales", "2")
    before = files(out)
    with pytest.raises(UserError, match="choose another --out"):
        run(hr, out, *flags)
    assert files(out) == before


def test_a_scale_that_some_images_would_lack_is_not_begun(hr, out):
    run(hr, out, "--scales", "2")
    (hr / "0001.png").unlink()
    before = files(out)
    with pytest.raises(UserError, match=r"X4 would lack images .* such as 0001"):
        run(hr, out, "--scales", "2", "4")
    assert files(out) == before


def test_another_border_is_noticed_without_the_settings_file(hr, out, capsys):
    run(hr, out)
    (out / "prepare.json").unlink()
    before = files(out)
    assert run(hr, out, "--border", "replicate") == 1
    assert files(out) == before


def test_a_scale_can_be_added_for_all_images(hr, out):
    run(hr, out, "--scales", "2")
    assert run(hr, out, "--scales", "2", "4") == 0
    assert len(list((out / "DIV2K_train_LR_bicubic/X4").iterdir())) == 3
    assert json.loads((out / "prepare.json").read_text())["scales"] == [2, 4]


def test_mistakes_are_user_errors(hr, out, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        run(tmp_path / "nowhere", out)
    with pytest.raises(UserError, match="--hr .*no images"):
        run(tmp_path, out)
    shutil.copy(hr / "0001.png", hr / "0001.bmp")
    with pytest.raises(UserError, match="0001.bmp"):
        run(hr, out)
    with pytest.raises(SystemExit):
        run(hr, out, "--scales", "1")
    (hr / "0001.bmp").unlink()
    run(hr, out)
    (out / "prepare.json").write_text("{")
    with pytest.raises(UserError, match="prepare.json"):
        run(hr, out)


@pytest.mark.parametrize("number", ["../../../elsewhere", "/tmp/elsewhere", "1", "²²²²", "0001/../x", ""])
def test_numbers_from_a_file_never_lead_elsewhere(hr, out, tmp_path, number):
    (hr / "0001.png").rename(hr / "bird.png")
    run(hr, out, "--scales", "4")
    names = json.loads((out / "names.json").read_text())
    changed = {number if name == "bird.png" else key: name for key, name in names.items()}
    (out / "names.json").write_text(json.dumps(changed))
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"names\.json: .* is no number with a file name"):
        run(hr, out, "--scales", "4")
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100000, '{"0001": 3}', b"\xff\xfe{}", None])
def test_a_names_file_that_is_no_such_thing_is_told(hr, out, content):
    out.mkdir(parents=True)
    if content is None:
        os.mkfifo(out / "names.json")
    else:
        (out / "names.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"\A[^\n]*names\.json: [^\n]*(restore it|ordinary file)"):
        run(hr, out)


def test_a_pipe_in_an_images_place_differs_and_is_not_waited_for(hr, out, capsys):
    run(hr, out, "--scales", "4")
    place = out / "DIV2K_train_LR_bicubic/X4/0002x4.png"
    place.unlink()
    os.mkfifo(place)
    assert run(hr, out, "--scales", "4") == 1
    assert "0002x4.png: differs" in capsys.readouterr().err


def test_a_file_in_the_way_is_one_line(hr, out):
    out.parent.mkdir()
    out.write_text("")
    with pytest.raises(UserError, match=r"\A--out [^\n]*DIV2K[^\n]* run the same command again to go on\Z"):
        run(hr, out)


def test_what_a_killed_process_left_is_removed(hr, out):
    run(hr, out, "--scales", "4")
    left = out / "DIV2K_train_HR" / ".part-0001.x.png"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    assert run(hr, out, "--scales", "4") == 0 and not left.exists()


def test_an_interrupted_run_ends_soon_in_one_line_and_leaves_no_half_files(hr, out):
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for number in range(60):
        Image.fromarray(pixels + np.uint8(number)).save(hr / f"{number + 4:04d}.png", compress_level=1)
    command = [sys.executable, "-m", "data.prepare", "--hr", str(hr), "--out", str(out), "--workers", "2"]
    running = subprocess.Popen(command, cwd=Path(prepare.__file__).parents[1], stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)
    with running:
        while not list(out.rglob("0005x4.png")):
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        *_, last = running.stderr.read().splitlines()
    assert running.returncode == 130 and last == "stopped by SIGINT: nothing that was saved is lost"
    made = list((out / "DIV2K_train_HR").iterdir())
    assert 2 <= len(made) < 40 and not [path for path in out.rglob("*") if path.name.startswith(".part")]


def test_threads_give_the_same_files(hr, out, tmp_path):
    run(hr, out, "--scales", "4")
    assert prepare.main(["--hr", str(hr), "--out", str(tmp_path / "two"), "--scales", "4", "--workers", "2"]) == 0
    assert files(tmp_path / "two") == files(out)
