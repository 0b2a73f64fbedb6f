import json
import math
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from metrics import functional, psnr_ssim
from metrics.pairs import find_pairs, read_pair
from utility import UserError, run_main

REPOSITORY = Path(__file__).resolve().parents[2]


def picture(height=24, width=28, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    """A function that writes images, dicts of name -> array, to the folders gt and sr and returns their paths."""

    def fill(gt, sr):
        for folder, images in (("gt", gt), ("sr", sr)):
            (tmp_path / folder).mkdir(exist_ok=True)
            for name, image in images.items():
                iio.imwrite(tmp_path / folder / name, image)
        return str(tmp_path / "gt"), str(tmp_path / "sr")

    return fill


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(2, "38.274168  0.961445"), (3, "34.742155  0.929886"), (4, "32.633562  0.900241")],
)
def test_means_are_matlabs_to_the_last_digit(shared, capsys, scale, expected):
    folder = shared / "data" / "matlab_metrics" / f"X{scale}"
    psnr_ssim.main(["--gt", str(folder / "HR"), "--sr", str(folder / "SR"), "--scale", str(scale)])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "PSNR", "(dB)", "SSIM"]
    assert [row.split()[0] for row in rows] == ["baby", "bird", "butterfly", "head", "woman", "mean"]
    assert rows[-1].endswith(f"  {expected}")


def test_it_runs_as_a_script(folders):
    image = picture()
    gt, sr = folders({"a.png": image}, {"a.png": image})
    command = [sys.executable, "metrics/psnr_ssim.py", "--gt", gt, "--sr", sr, "--scale", "4", "--json"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["mean"] == {"psnr": math.inf, "ssim": 1.0}


def test_json_holds_rows_mean_and_missing_names(folders, capsys):
    a, b = picture(seed=1), picture(seed=2)
    gt, sr = folders({"a.png": a, "b.png": b, "c.png": a}, {"a.png": b, "b.png": a // 2, "d.png": a})
    assert psnr_ssim.main(["--gt", gt, "--sr", sr, "--scale", "2", "--json"]) == 1  # c is not among those of the mean
    output = capsys.readouterr()
    summary = json.loads(output.out)
    rows = summary["images"]
    assert [row["name"] for row in rows] == ["a", "b"]
    assert summary["mean"]["psnr"] == (rows[0]["psnr"] + rows[1]["psnr"]) / 2
    assert summary["mean"]["ssim"] == (rows[0]["ssim"] + rows[1]["ssim"]) / 2
    assert (summary["missing_sr"], summary["missing_gt"]) == (["c"], ["d"])
    assert output.err.splitlines() == [
        f"missing: c has no partner in --sr {sr}",
        f"missing: d has no partner in --gt {gt}",
    ]


def test_a_picture_that_cannot_be_compared_is_told_and_the_others_are_done(folders, capsys):
    gt, sr = folders({"a.png": picture(), "b.png": picture()}, {"a.png": picture(seed=1), "b.png": picture(seed=1)})
    (Path(sr) / "a.png").write_bytes(b"no image")
    assert psnr_ssim.main(["--gt", gt, "--sr", sr, "--scale", "2", "--json"]) == 1
    output = capsys.readouterr()
    summary = json.loads(output.out)
    assert [row["name"] for row in summary["images"]] == ["b"]
    assert output.err == f"left out: {summary['left_out'][0]}\n" and "a.png" in output.err


def test_figures_are_those_of_the_tensor_functions(folders):
    hr, sr = picture(seed=1), picture(seed=2)
    (score,), _ = psnr_ssim.evaluate(*folders({"a.png": hr}, {"a.png": sr}), scale=3)
    hr, sr = (torch.from_numpy(image).permute(2, 0, 1) for image in (hr, sr))
    assert score == psnr_ssim.Score("a", functional.psnr(sr, hr, border=3), functional.ssim(sr, hr, border=3))


def test_rgb_and_border(folders):
    hr, sr = picture(seed=1), picture(seed=2)
    (score,), _ = psnr_ssim.evaluate(*folders({"a.png": hr}, {"a.png": sr}), scale=3, luma=False, border=0)
    error = np.mean((hr.astype(float) - sr) ** 2)
    assert score.psnr == pytest.approx(10 * math.log10(255**2 / error), abs=1e-12)


@pytest.mark.parametrize("name", ["baby.png", "baby.BMP", "baby_x4.png", "baby_x4_SR.png", "32bit_baby_x4_SR.png"])
def test_names_that_belong_together(folders, name):
    gt, sr = folders({"baby.png": picture()}, {name: picture()})
    pairs = find_pairs(gt, sr, scale=4)
    assert pairs.found["baby"][1].name == name and not pairs.without_hr


@pytest.mark.skipif(sys.platform == "win32", reason="no such file names")
@pytest.mark.parametrize("name", ["4bit_12_30_x4_SR.png", "12:30.png"])
def test_a_result_belongs_to_an_original_whose_name_no_result_may_have(folders, name):
    gt, sr = folders({"12:30.png": picture()}, {name: picture()})
    pairs = find_pairs(gt, sr, scale=4)
    assert pairs.found["12_30"][0].name == "12:30.png" and pairs.found["12_30"][1].name == name


def test_a_results_folder_is_sorted_out(folders):
    names = ["2bit_a_x4_SR", "4bit_a_x4_SR", "4bit_a_x4_LR", "4bit_a_x4_HR", "4bit_a_x2_SR", "a", "2bit_b_x4_SR"]
    gt, sr = folders({"a.png": picture()}, {f"{name}.png": picture() for name in names})
    (Path(sr) / "Thumbs.db").write_bytes(b"no image")
    pairs = find_pairs(gt, sr, scale=4, bit=4)
    assert pairs.found["a"][1].name == "4bit_a_x4_SR.png"
    assert (pairs.without_sr, pairs.without_hr) == ([], [])
    with pytest.raises(UserError, match="2bit_a_x4_SR.png and 4bit_a_x4_SR.png both stand for a; choose with --bit"):
        find_pairs(gt, sr, scale=4)


@pytest.mark.parametrize("names, bit", [(("4bit_a_x4_SR", "2bit_b_x4_SR"), None), (("4bit_a_x4_SR", "b_x4_SR"), None),
                                        (("4bit_a_x4_SR", "b"), 4)])
def test_results_of_several_networks_have_no_mean(folders, names, bit):
    gt, sr = folders({"a.png": picture(), "b.png": picture()}, {f"{name}.png": picture() for name in names})
    with pytest.raises(UserError, match="holds results of several networks .*4 bit.*; choose with --bit, or keep one"):
        find_pairs(gt, sr, scale=4, bit=bit)


def test_a_larger_hr_image_is_cropped_top_left(folders):
    hr = picture(27, 30)
    gt, sr = folders({"a.png": hr}, {"a.png": hr[:24, :28]})
    (score,), _ = psnr_ssim.evaluate(gt, sr, scale=4)
    assert score.psnr == math.inf


@pytest.mark.parametrize("size", [(24, 24), (28, 28), (24, 29)], ids=["by scale", "larger", "wider"])
def test_sizes_that_do_not_belong_together(folders, capsys, size):
    gt, sr = folders({"a.png": picture(24, 28)}, {"a.png": picture(*size)})
    assert run_main(lambda: psnr_ssim.main(["--gt", gt, "--sr", sr, "--scale", "4"])) == 2
    error = capsys.readouterr().err
    expected = f"a.png: {size[1]}x{size[0]} pixels do not fit the HR image's 28x24 at scale 4"
    assert expected in error and error.count("\n") == 1


def test_grey_hr_beside_colour_sr_becomes_colour(folders):
    grey, colour = picture(channels=1, seed=1), picture(seed=2)
    gt, sr = folders({"a.png": grey}, {"a.png": colour})
    (score,), _ = psnr_ssim.evaluate(gt, sr, scale=4)
    hr, sr = (torch.from_numpy(image).permute(2, 0, 1) for image in (np.stack([grey] * 3, axis=2), colour))
    assert score.psnr == functional.psnr(sr, hr, border=4)


def test_two_grey_images_are_compared_as_they_are(folders):
    hr, sr = picture(channels=1, seed=1), picture(channels=1, seed=2)
    gt, sr_folder = folders({"a.png": hr}, {"a.png": sr})
    pair = read_pair(Path(gt) / "a.png", Path(sr_folder) / "a.png", scale=4)
    assert [image.shape for image in pair] == [(24, 28, 1)] * 2
    (score,), _ = psnr_ssim.evaluate(gt, sr_folder, scale=4, border=0)
    assert score.psnr == pytest.approx(10 * math.log10(255**2 / np.mean((hr.astype(float) - sr) ** 2)), abs=1e-12)


def test_pairs_that_are_compared_in_another_range_are_named(folders, capsys):
    grey, colour = picture(channels=1, seed=1), picture(seed=2)
    gt, sr = folders({"a.png": grey, "b.png": colour}, {"a.png": grey, "b.png": colour})
    psnr_ssim.main(["--gt", gt, "--sr", sr, "--scale", "4"])
    assert "note: a: two grey files, compared in 0..255" in capsys.readouterr().err
    psnr_ssim.main(["--gt", gt, "--sr", sr, "--scale", "4", "--rgb"])
    assert capsys.readouterr().err == ""


def test_a_border_below_zero_is_refused():
    with pytest.raises(UserError, match="--border -1: give 0 pixels or more"):
        psnr_ssim.main(["--gt", "gt", "--sr", "sr", "--scale", "4", "--border", "-1"])


@pytest.mark.parametrize(
    ("gt", "sr", "scale", "message"),
    [
        ("nowhere", "sr", "4", "--gt nowhere: no such folder"),
        ("gt", "nowhere", "4", "--sr nowhere: no such folder"),
        ("gt", "sr", "0", "--scale 0: no upscaling factor"),
        ("gt", "strange", "4", "--sr strange: holds no partner of an image in --gt gt"),
        ("twice", "sr", "4", "--gt twice: a.bmp and a.png both stand for a; keep one of them"),
        ("gt", "sr", "8", "SSIM needs 11x11 pixels inside the border, there are 8x12"),
        ("gt", "sr", "12", "a border of 12 pixels leaves nothing of 24x28 pixels"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, gt, sr, scale, message):
    contents = {"gt": ["a.png"], "sr": ["a.png"], "strange": ["b.png"], "twice": ["a.bmp", "a.png"]}
    for folder, names in contents.items():
        for name in names:
            (tmp_path / folder).mkdir(exist_ok=True)
            iio.imwrite(tmp_path / folder / name, picture())
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: psnr_ssim.main(["--gt", gt, "--sr", sr, "--scale", scale])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
