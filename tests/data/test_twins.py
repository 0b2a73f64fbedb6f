import numpy as np
import pytest
from PIL import Image, ImageDraw

from data import check
from data.twins import find_twins


def picture(seed, size=(240, 180)):
    """Patches of colour, lines and grain under a sky that gets lighter: alike when small, each with its own details."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(np.linspace(60, 200, size[1], dtype=np.uint8)[:, None].repeat(size[0], 1)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, wide, high = (int(number) for number in rng.integers(0, [*size, 60, 60]))
        draw.rectangle((x, y, x + wide, y + high), fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
        draw.line([tuple(map(int, rng.integers(0, size))) for _ in range(2)], fill=(0, 0, 0), width=2)
    return image


TWINS = {
    "the same": lambda image: image,
    "as JPEG": lambda image: image,
    "half the size": lambda image: image.resize((120, 90), Image.Resampling.BICUBIC),
    "cropped": lambda image: image.crop((12, 4, 230, 172)),
    "squared": lambda image: image.crop((30, 0, 210, 180)),
    "grey": lambda image: image.convert("L"),
    "smaller, cropped JPEG": lambda image: image.crop((10, 0, 240, 165)).resize((345, 247)),
}


@pytest.fixture
def folders(tmp_path):
    for folder, seeds in {"train": range(6), "benchmark/Mine/HR": range(6, 10)}.items():
        (tmp_path / folder).mkdir(parents=True)
        for seed in seeds:
            picture(seed).save(tmp_path / folder / f"{seed}.png")
    return tmp_path


@pytest.mark.parametrize("twin", TWINS)
def test_twins_are_found_and_others_are_not(folders, capsys, twin):
    flags = ["--dir_data", str(folders), "--against", "Mine"]
    assert check.main(flags) == 0
    assert "6 training pictures, 4 test pictures: no twins" in capsys.readouterr().out
    name = f"twin.{'jpg' if 'JPEG' in twin else 'png'}"
    TWINS[twin](picture(8)).save(folders / "train" / name)
    assert check.main(flags) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["training", "picture", "test", "picture", "likeness"]
    assert f"train/{name}" in told[1] and "benchmark/Mine/HR/8.png" in told[1] and told[2] == ""
    assert told[3] == "7 training pictures, 4 test pictures: 1 twin"


def test_folders_may_lie_anywhere_and_lr_images_do_not_count(folders, capsys):
    lr = folders / "benchmark/Mine/LR_bicubic/X2"
    lr.mkdir(parents=True)
    picture(1).save(lr / "1x2.png")
    (folders / "benchmark/Mine/loop").symlink_to(folders / "benchmark")
    assert check.main(["--hr", str(folders / "train"), "--against", str(folders / "benchmark")]) == 0
    picture(1).save(folders / "benchmark/Mine/HR/again.png")
    assert check.main(["--hr", str(folders / "train"), "--against", str(folders / "benchmark")]) == 1
    assert "6 training pictures, 5 test pictures: 1 twin" in capsys.readouterr().out


def test_a_folder_against_itself_gives_each_pair_once(folders):
    picture(3).convert("L").save(folders / "train/grey.png")
    files = sorted((folders / "train").iterdir())
    (twin,), problems = find_twins(files, files)
    assert {twin.training.name, twin.testing.name} == {"3.png", "grey.png"} and not problems


def test_broken_files_are_listed_and_the_others_compared(folders, capsys):
    (folders / "train/broken.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("RGB", (3, 400)).save(folders / "train/plain.png")
    picture(7).save(folders / "train/twin.png")
    assert check.main(["--dir_data", str(folders), "--against", "Mine"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {folders / 'train/broken.jpg'}: ") and told.err.count("\n") == 1
    assert "train/twin.png" in told.out and "1 twin\n" in told.out


def test_lookalikes_and_twins_among_real_photographs(shared):
    data = shared / "data"
    pairs = [("train/BSD400/55067.jpg", "benchmark/B100/HR/223061.webp", False),
             ("train/BSD400/271031.jpg", "train/CID22/1001682.jpg", False),
             ("train/CID22/844297.jpg", "train/CID22/3316926_opo25u.jpg", True),
             ("benchmark/Set5/HR/head.png", "benchmark/Set14/HR/face.png", True)]
    twins, _ = find_twins([data / first for first, *_ in pairs], [data / second for _, second, _ in pairs])
    expected = {(data / first, data / second) for first, second, is_twin in pairs if is_twin}
    assert {(twin.training, twin.testing) for twin in twins} == expected


@pytest.mark.parametrize("flags, message", [
    (["--against", "", "--dir_data", "{root}"], "--against '': names of test sets or a folder are needed"),
    (["--against", "Mine+Nowhere", "--dir_data", "{root}"],
     r"--against Mine\+Nowhere: there is no folder or test set 'Nowhere'; name only sets that .*benchmark has"),
    (["--against", "Mine", "--hr", "{root}/nowhere"], "--hr .*nowhere: no such folder"),
    (["--against", "{root}/train", "--hr", "{root}/empty"], "--hr .*empty: no pictures in it"),
])
def test_mistakes_are_told(folders, flags, message):
    (folders / "empty").mkdir()
    with pytest.raises(check.UserError, match=message):
        check.main([flag.format(root=folders) for flag in flags])


@pytest.mark.parametrize("flags", [[], ["--against", "Mine"], ["--hr", "x"]])
def test_flags_that_lack_another(flags):
    with pytest.raises(SystemExit):
        check.main(flags)


def test_a_set_of_the_data_root_is_meant_before_a_folder_that_is_here(folders, monkeypatch, capsys):
    picture(8).save(folders / "train" / "twin.png")
    (folders / "here" / "Mine").mkdir(parents=True)
    picture(20).save(folders / "here" / "Mine" / "a.png")
    monkeypatch.chdir(folders / "here")
    assert check.main(["--hr", str(folders / "train"), "--dir_data", str(folders), "--against", "Mine"]) == 1
    assert check.main(["--hr", str(folders / "train"), "--dir_data", str(folders), "--against", "./Mine"]) == 0
    assert check.main(["--hr", str(folders / "train"), "--against", "Mine"]) == 0


@pytest.mark.parametrize("name, told", [("my_LR_photos", True), ("photos_Q90", True), ("A_train_LR_bicubic", False)])
def test_folders_that_are_left_out_by_their_names_alone_are_told(folders, caplog, capsys, name, told):
    (folders / "train" / name).mkdir()
    picture(8).save(folders / "train" / name / "twin.png")
    flags = ["--dir_data", str(folders), "--against", "Mine"]
    assert check.main(flags) == 0
    assert (f"{name}: left out, its name is that of LR images" in caplog.text) == told
    assert check.main(["--hr", str(folders / "train" / name), *flags]) == 1
