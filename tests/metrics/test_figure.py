from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from metrics import figure, functional
from utility import UserError, run_main


def picture(height=60, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def with_error(image, x, y, amount, size=10):
    changed = image.copy()
    changed[y : y + size, x : x + size] ^= amount
    return changed


def texts(drawn):
    return [text.get_text() for text in drawn.texts]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """hr.png and two results of it in the current folder, plus one that does not fit."""
    hr = picture()
    images = {"hr": hr, "2bit_hr_x4_SR": with_error(hr, 10, 10, 128), "4bit_hr_x4_SR": with_error(hr, 10, 10, 32)}
    for name, image in (images | {"other": picture(30, 30)}).items():
        iio.imwrite(tmp_path / f"{name}.png", image)
    monkeypatch.chdir(tmp_path)
    return images


def test_the_crop_of_largest_error_is_found():
    hr = picture(100, 140)
    images = [with_error(hr, 30, 60, 16), with_error(hr, 90, 20, 255)]
    x, y, width, height = figure.worst_crop(hr, images, size=(10, 10))
    assert (x, y, width, height) == (90, 20, 10, 10)
    x, y, width, height = figure.worst_crop(hr, images)
    assert x <= 90 and 100 <= x + width and y <= 20 and 30 <= y + height


def test_an_error_in_the_border_does_not_count():
    hr = picture()
    in_the_border, inside = with_error(hr, 0, 0, 255, size=4), with_error(hr, 40, 30, 16, size=8)
    assert figure.worst_crop(hr, [in_the_border, inside], border=4, size=(8, 8)) == (40, 30, 8, 8)


def test_crops_and_captions_are_those_of_the_images():
    hr = picture()
    results = {"bad": with_error(hr, 20, 20, 128), "good": with_error(hr, 20, 20, 16)}
    drawn = figure.crop_figure(hr, results, crop=(15, 18, 24, 20), border=4, title="noise")
    full, *tiles = [axes.get_images()[0].get_array() for axes in drawn.axes]
    assert np.array_equal(full, hr)
    for tile, image in zip(tiles, [hr, *results.values()], strict=True):
        assert np.array_equal(tile, image[18:38, 15:39])
    frame = drawn.axes[0].patches[0]
    # pixel centres are whole numbers, so the frame stands half a pixel outside
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (14.5, 17.5, 24, 20)
    values = [functional.psnr(figure._tensor(sr), figure._tensor(hr), border=4) for sr in results.values()]
    expected = ["noise", "90 \u00d7 60", "HR", "PSNR of the image", "bad", f"{values[0]:.2f} dB"]
    assert texts(drawn) == [*expected, "good", f"{values[1]:.2f} dB"]
    assert [text.get_text() for text in drawn.texts if text.get_fontweight() == "bold"] == [f"{values[1]:.2f} dB"]


def test_broken_promises_are_value_errors():
    with pytest.raises(ValueError, match="b has the shape"):
        figure.crop_figure(picture(), {"b": picture(59)})
    with pytest.raises(ValueError, match="a border of 30 pixels leaves nothing of 60x90 pixels"):
        figure.crop_figure(picture(), {"b": picture()}, border=30)


def test_psnr_of_the_crop_alone():
    hr = picture()
    inside = with_error(hr, 20, 20, 1, size=10)
    drawn = figure.crop_figure(hr, {"a": inside}, crop=(20, 20, 10, 10), psnr_of="crop")
    expected = functional.psnr(figure._tensor(inside[20:30, 20:30]), figure._tensor(hr[20:30, 20:30]), border=0)
    assert texts(drawn)[3:] == ["PSNR of the crop", "a", f"{expected:.2f} dB"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("shape", [(60, 90), (90, 40), (40, 200)])
def test_pictures_keep_their_shape_and_do_not_overlap(count, shape):
    hr = picture(*shape)
    drawn = figure.crop_figure(hr, {f"result {i}": hr for i in range(count)}, crop=(0, 0, 20, 15))
    width, height = drawn.get_size_inches()
    boxes = [axes.get_position() for axes in drawn.axes]
    for box, aspect in zip(boxes, [shape[1] / shape[0]] + [20 / 15] * (count + 1), strict=True):
        assert box.width * width / (box.height * height) == pytest.approx(aspect)
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a.x0 >= b.x1 or a.x1 <= b.x0 or a.y0 >= b.y1 or a.y1 <= b.y0


def test_long_labels_shrink_to_their_picture():
    hr = picture()
    drawn = figure.crop_figure(hr, {"short": hr, "a label that is far too long": hr, "b": hr}, crop=(0, 0, 9, 20))
    sizes = {text.get_text(): text.get_fontsize() for text in drawn.texts}
    assert sizes["short"] == figure.FONT_SIZE
    assert figure.SMALLEST_FONT_SIZE <= sizes["a label that is far too long"] < figure.FONT_SIZE


def test_the_command_writes_the_figure(files, capsys):
    sr = ["2bit_hr_x4_SR.png", "4bit_hr_x4_SR.png"]
    assert figure.main(["--gt", "hr.png", "--sr", *sr, "--out", "figure.png", "--dpi", "50"]) is None
    assert capsys.readouterr().out == "figure.png\n"
    assert iio.imread("figure.png").shape[1] == 350


@pytest.mark.parametrize("sr, told", [("grey.png", True), ("2bit_hr_x4_SR.png", False)])
def test_that_grey_files_are_compared_as_luma_is_told(files, capsys, sr, told):
    for seed, name in enumerate(("hr.png", "grey.png")):
        iio.imwrite(name, picture(seed=seed)[..., 0])
    figure.main(["--gt", "hr.png", "--sr", sr, "--out", "figure.png", "--dpi", "50"])
    assert ("note: grey files are compared in luma's 16..235" in capsys.readouterr().err) == told


@pytest.mark.parametrize("name, flags, border", [
    ("32bit_hr_x2_SR.png", [], 2), ("any.png", [], 4), ("any.png", ["--scale", "3"], 3)])
def test_the_border_is_the_scale_that_the_names_tell(files, monkeypatch, name, flags, border):
    Path("2bit_hr_x4_SR.png").rename(name)
    borders, drawn = [], figure.crop_figure
    monkeypatch.setattr(figure, "crop_figure", lambda *images, **how: (borders.append(how["border"]),
                                                                       drawn(*images, **how))[1])
    figure.main(["--gt", "hr.png", "--sr", name, "--out", "figure.png", "--dpi", "50", *flags])
    assert borders == [border]


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["2bit_a_x4_SR.png", "4bit_a_x4_SR.png"], ["2 bit", "4 bit"]),
        (["bicubic.png", "4bit_a_x4_SR.png"], ["bicubic", "4bit_a_x4_SR"]),
        (["x/a.png", "y/a.png"], ["x", "y"]),
    ],
)
def test_labels_come_from_the_names(paths, labels):
    assert figure._default_labels(paths) == labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gt", "nowhere.png"], "nowhere.png"),
        (["--sr", "2bit_hr_x4_SR.png", "other.png"], "--sr other.png: not the size of 2bit_hr_x4_SR.png"),
        (["--sr", "other.png"], "--sr other.png: 30x30 pixels do not fit the HR image's 90x60 at scale 4"),
        (["--labels", "a", "b"], "--labels: 2 for 1 images"),
        (["--crop", "1,2,3"], "--crop 1,2,3: not four whole numbers"),
        (["--crop", "80,0,20,20"], "--crop 80,0,20,20: 80,0,20,20 is not inside the image's 90x60 pixels"),
        (["--crop=-1,0,20,20"], "not four whole numbers, 0 or more"),
        (["--crop", "²,0,20,20"], "not four whole numbers"),
        (["--dpi", "9"], "--dpi 9: give 10 to 2400"),
        (["--scale", "0"], "--scale 0: no upscaling factor"),
        (["--scale", "2"], "--scale and the names in --sr tell several, 2 and 4; give results of one scale"),
        (["--out", "figure.pgf"], "--out figure.pgf: no known kind of picture"),
        (["--out", "hr.png"], "--out hr.png: would overwrite what is read"),
        (["--out", "other.png"], "--out other.png: would overwrite a file that this tool did not write"),
        (["--out", "figure.docx"], "--out figure.docx: no known kind of picture"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(files, capsys, arguments, message):
    command = ["--gt", "hr.png", "--sr", "2bit_hr_x4_SR.png", "--out", "figure.png", *arguments]
    assert run_main(lambda: figure.main(command)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_an_interrupted_write_leaves_the_old_figure(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    drawn = figure.crop_figure(picture(), {"a": picture(seed=1)})
    monkeypatch.setattr(drawn, "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        figure.save_figure(drawn, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_unknown_extension_is_refused(tmp_path):
    with pytest.raises(UserError, match="no known kind of picture"):
        figure.save_figure(figure.crop_figure(picture(), {"a": picture(seed=1)}), tmp_path / "figure.txt")
