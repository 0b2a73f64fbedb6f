import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from data.imresize import imresize
from data.pictures import Picture, picture_of, read_picture, to_planes, to_values
from metrics.functional import to_luma

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 7, 3), dtype=np.uint8)
ALPHA = np.arange(70, dtype=np.uint8).reshape(10, 7) * 3
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def enlarged_by_repeating(picture, n_colors, scale=2):
    values = picture.values(rgb_range=255, n_colors=n_colors)[0]
    return picture.enlarged(values.repeat_interleave(scale, 1).repeat_interleave(scale, 2), scale=scale)


def twice(image):
    return image.repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("n_colors", [1, 3])
def test_grey_comes_out_as_it_went_in(tmp_path, n_colors):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    enlarged_by_repeating(read_picture(tmp_path / "a.png"), n_colors).write(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as written:
        assert written.mode == "L" and np.array_equal(np.array(written), twice(grey))


def test_a_luma_network_leaves_the_colours_of_a_flat_picture():
    flat = np.broadcast_to(np.array([200, 30, 90], np.uint8), (4, 5, 3))
    assert np.array_equal(enlarged_by_repeating(Picture(flat), 1).colours, twice(flat))


def test_a_luma_network_gives_the_luma_and_bicubic_the_chroma():
    small = np.full((6, 6, 3), 128, np.uint8)
    small[2:4, 2:4] = (130, 120, 140)
    result = enlarged_by_repeating(Picture(small), 1).colours
    asked = to_values(to_planes(twice(small)), n_colors=1)
    assert (to_luma(torch.from_numpy(result.transpose(2, 0, 1))) - asked).abs().max() < 1
    bicubic = imresize(small.astype(float), 2)
    assert np.abs((result[..., 0] - 1.0 * result[..., 1]) - (bicubic[..., 0] - bicubic[..., 1])).max() < 2


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_transparency_is_enlarged_by_bicubic(tmp_path, mode):
    image = Image.fromarray(np.concatenate([PIXELS, ALPHA[..., None]], axis=2))
    if mode == "P":
        image = Image.fromarray(ALPHA // 3, "L").convert("P")
        image.save(tmp_path / "a.png", transparency=bytes(range(0, 210, 3)))
    else:
        image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
        image.save(tmp_path / ("a.tif" if mode == "PA" else "a.png"))
    path = next(tmp_path.iterdir())
    with Image.open(path) as file:
        alpha = np.array(file.convert("RGBA").getchannel("A"))
    picture = read_picture(path)
    enlarged_by_repeating(picture, 3).write(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert written.mode == ("LA" if mode == "LA" else "RGBA")
        assert np.array_equal(np.array(written.getchannel("A")), imresize(alpha, 2))


def test_a_profile_is_kept_where_it_fits_the_colours(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "rgb.png", icc_profile=SRGB)
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.tif", icc_profile=SRGB)
    enlarged_by_repeating(read_picture(tmp_path / "rgb.png"), 3).write(tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").info["icc_profile"] == SRGB
    assert read_picture(tmp_path / "grey.tif").icc_profile is None


def test_an_output_of_one_colour_is_a_grey_picture_in_its_full_range():
    picture = picture_of(torch.tensor([[[16.0, 235.0, 125.5, 0.0, 255.0]]]))
    assert picture.grey and picture.colours[0, :, 0].tolist() == [0, 255, 128, 0, 255]


def test_colours_are_rounded_as_torch_rounds():
    values = torch.tensor([0.5, 1.5, 2.5, 254.6, 300.0, -3.0]).expand(3, 1, 6)
    assert np.array_equal(picture_of(values).colours[0, :, 0], values[0, 0].round().clamp(0, 255).numpy())


def test_lab_is_no_grey(tmp_path):
    Image.fromarray(PIXELS).convert("LAB").save(tmp_path / "a.tif")
    picture = read_picture(tmp_path / "a.tif")
    assert not picture.grey and np.ptp(picture.colours, axis=2).max() > 0


def test_of_an_animation_the_first_picture_is_taken_with_a_line(tmp_path, caplog):
    frames = [Image.fromarray(np.roll(PIXELS, turn, 0)) for turn in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    with caplog.at_level("INFO"):
        assert np.array_equal(read_picture(tmp_path / "a.webp").colours, PIXELS)
    assert "a.webp: the first of its 3 pictures is taken" in caplog.text


@pytest.mark.parametrize("dtype, told", [(np.uint16, True), (np.uint8, False)])
def test_bits_that_are_not_used_are_told(tmp_path, caplog, dtype, told):
    Image.fromarray(np.full((8, 8), 7, dtype)).save(tmp_path / "a.png")
    with caplog.at_level("INFO"):
        read_picture(tmp_path / "a.png")
    assert ("a.png: has 16 bits a channel, 8 are used" in caplog.text) == told
