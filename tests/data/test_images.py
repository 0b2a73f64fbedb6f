import logging
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import data.images
from data.images import image_files, image_name, image_shape, images_by_name, read_folder, read_image, write_png
from data.pictures import read_picture
from utility import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 7, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (10, 7, 4), dtype=np.uint16)
DEEP_AS_8_BIT = np.round(DEEP / 257).astype(np.uint8)


def three(grey):
    return np.stack([grey] * 3, axis=2)


def write_png16(path, values, transparent=None):
    """A 16-bit PNG of [h, w, 1..4] channels; Pillow writes none with colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + (b"" if transparent is None else chunk(b"tRNS", transparent.astype(">u2").tobytes()))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tga", "ppm", "pcx"])
def test_lossless_formats_keep_every_pixel(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    image = read_image(path)
    assert np.array_equal(image, PIXELS) and image.dtype == np.uint8 and image.flags.writeable
    assert image_shape(path) == (10, 7)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_lossy_formats_are_what_pillow_makes_of_them(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    assert np.array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))
    assert image_shape(path) == (10, 7)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(tmp_path, mode):
    picture = Image.fromarray(PIXELS).convert(mode)
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), three(np.asarray(picture.convert("L"))))


def test_palette_is_expanded_also_with_transparent_entries(tmp_path, recwarn):
    picture = Image.fromarray(PIXELS).quantize(16)
    colours = np.asarray(picture.convert("RGB"))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", transparency=bytes(range(16)))
    assert np.array_equal(read_image(tmp_path / "a.png"), colours)
    assert np.array_equal(read_image(tmp_path / "b.png"), colours)
    assert not recwarn.list


def test_alpha_is_dropped_and_colours_stay(tmp_path):
    alpha = np.arange(70, dtype=np.uint8).reshape(10, 7, 1)
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), PIXELS)


def test_cmyk_is_converted(tmp_path):
    ink = np.zeros((2, 4, 4), dtype=np.uint8)
    ink[0, range(4), range(4)] = 255  # pure cyan, magenta, yellow, black; the second row is bare paper
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]
    assert (read_image(tmp_path / "a.tif")[1] == 255).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_scaled_and_rounded(tmp_path, channels):
    write_png16(tmp_path / "a.png", DEEP[..., :channels])
    expected = DEEP_AS_8_BIT[..., :3] if channels > 2 else three(DEEP_AS_8_BIT[..., 0])
    assert np.array_equal(read_image(tmp_path / "a.png"), expected)
    assert image_shape(tmp_path / "a.png") == (10, 7)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("kind", [{}, {"compression": "zlib"}, {"planarconfig": "separate"}])
def test_16_bit_tiff_is_scaled_and_rounded(tmp_path, byteorder, kind):
    tifffile = pytest.importorskip("tifffile")
    colour = DEEP[..., :3].transpose(2, 0, 1) if "planarconfig" in kind else DEEP[..., :3]
    tifffile.imwrite(tmp_path / "a.tif", colour, byteorder=byteorder, photometric="rgb", **kind)
    assert np.array_equal(read_image(tmp_path / "a.tif"), DEEP_AS_8_BIT[..., :3])
    tifffile.imwrite(tmp_path / "b.tif", DEEP[..., 0], byteorder=byteorder, photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "b.tif"), three(DEEP_AS_8_BIT[..., 0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits_is_that_one_alone(tmp_path, channels):
    values = np.array(DEEP[..., :channels])
    values[4:6] = values[0, 0]
    write_png16(tmp_path / "a.png", values, transparent=values[0, 0])
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.alpha == 0, (values == values[0, 0]).all(axis=2)) and picture.alpha.max() == 255
    assert picture.grey == (channels == 1)


def test_colours_multiplied_by_alpha_are_divided_again(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    straight = np.array(DEEP)
    straight[..., 3] |= 1 << 15
    stored = np.round(straight * (straight[..., 3:] / 65535.0)).astype(np.uint16)
    stored[..., 3] = straight[..., 3]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read_image(tmp_path / "a.tif") - np.round(straight[..., :3] / 257)).max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_tiff_that_could_be_mapped_to_memory(tmp_path, orientation, channels):
    pixels = np.concatenate([PIXELS, PIXELS[..., :1]], axis=2)[..., :channels].squeeze()
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("tif", "png"):  # Pillow turns TIFF itself
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "a.png"))


def test_orientation_behind_the_pixels_of_a_png_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    path = tmp_path / "late.png"
    write_png(path, np.zeros((5, 7, 3), np.uint8))
    whole = path.read_bytes()
    end = whole.rindex(b"IEND") - 4
    path.write_bytes(whole[:end] + chunk + whole[end:])
    assert read_image(path).shape[:2] == image_shape(path) == (7, 5)


@pytest.mark.parametrize("suffix", ["webp", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, lossless=True, exif=exif)
    upright = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1]}
    upright |= {5: PIXELS.transpose(1, 0, 2), 6: np.rot90(PIXELS, -1)}
    upright |= {7: np.rot90(PIXELS, 2).transpose(1, 0, 2), 8: np.rot90(PIXELS)}
    assert np.array_equal(read_image(path), upright[orientation])
    assert image_shape(path) == upright[orientation].shape[:2]


def picture_bytes(tmp_path, suffix):
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(PIXELS.repeat(20, axis=0).repeat(20, axis=1)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5])
def test_a_cut_off_file_is_a_user_error_of_one_line(tmp_path, suffix, part):
    content = picture_bytes(tmp_path, suffix)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: [^\n]+\Z") as caught:
        read_image(path)
    assert str(caught.value).count("cut.") == 1


def test_other_unreadable_files_are_user_errors(tmp_path):
    (tmp_path / "text.png").write_text("no picture at all")
    Image.fromarray(PIXELS[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(PIXELS[..., 0].astype(np.int32)).save(tmp_path / "long.tif")  # 0..255 of an unknown range
    for name, reason in {
        "text.png": "not an image of a kind",
        "float.tif": "32-bit pixels; save it with 8 or 16 bits",
        "long.tif": "32-bit pixels; save it with 8 or 16 bits",
        "missing.png": "no such file",
        ".": "is a folder; give an ordinary file",
    }.items():
        with pytest.raises(UserError, match=reason):
            read_image(tmp_path / name)
    with pytest.raises(UserError, match="text.png: not an image"):
        image_shape(tmp_path / "text.png")


def test_an_image_of_more_pixels_than_asked_for_is_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="bomb.png: .*7x10 pixels are more than the limit of 69"):
        read_image(tmp_path / "bomb.png", max_pixels=69)
    assert read_image(tmp_path / "bomb.png", max_pixels=70).shape == (10, 7, 3)


def test_pillows_own_limit_is_not_ours(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    assert image_shape(tmp_path / "large.png") == read_image(tmp_path / "large.png").shape[:2]


def test_a_pipe_is_no_image_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for function in (read_image, image_shape):
        with pytest.raises(UserError, match="a.png: is a pipe or device"):
            function(tmp_path / "a.png")
    assert image_files(tmp_path) == []


@pytest.mark.parametrize("image", [PIXELS, PIXELS[..., 0], PIXELS[::-1, ::2]])
def test_written_png_reads_back(tmp_path, image):
    write_png(tmp_path / "new" / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "new" / "a.png"), image if image.ndim == 3 else three(image))


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    write_png(tmp_path / "a.png", PIXELS)
    monkeypatch.setattr(data.images.Image.Image, "save", disk_full)
    with pytest.raises(UserError, match="a.png: can't be written .No space left"):
        write_png(tmp_path / "a.png", PIXELS * 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(tmp_path / "a.png"), PIXELS)


def test_where_nothing_can_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="a.png: can't be written"):
        write_png(tmp_path / "file" / "a.png", PIXELS)


@pytest.mark.parametrize("image", [PIXELS.astype(np.float32), DEEP, PIXELS[None], PIXELS[..., :1]])
def test_write_png_takes_8_bit_images_only(tmp_path, image):
    with pytest.raises(ValueError, match="expected uint8"):
        write_png(tmp_path / "a.png", image)


def test_folders_of_images_that_are_not_looked_into_are_told(tmp_path, caplog):
    for name in ("a.png", "more/b.jpg", ".hidden/c.png", "notes/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level(logging.INFO):
        assert image_files(tmp_path, "--hr") == image_files(tmp_path) == [tmp_path / "a.png"]
    assert caplog.messages == [f"--hr {tmp_path}: ignored 1 folder(s) of images in it, such as 'more'"]


def test_image_files_are_sorted_and_others_ignored_with_a_line_in_the_log(tmp_path, caplog):
    for name in ["b.png", "a.JPG", "c.webp", "Thumbs.db", "notes.txt", ".hidden.png", "._b.png"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "elsewhere.bmp").symlink_to(tmp_path / "b.png")
    with caplog.at_level(logging.INFO):
        assert [path.name for path in image_files(tmp_path)] == ["a.JPG", "b.png", "c.webp", "elsewhere.bmp"]
    assert len(caplog.messages) == 1 and "ignored 2 file(s)" in caplog.messages[0] and "Thumbs.db" in caplog.messages[0]


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        image_files(tmp_path / "nowhere")


def test_two_images_of_one_name_are_a_user_error(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"a\.jpg and a\.png would both be called 'a'"):
        images_by_name(tmp_path)


@pytest.mark.parametrize(
    "file, name",
    [("x/baby.png", "baby"), ("x/a.b.png", "a.b"), ("..\\..\\up.png", ".._.._up"), ("C:up.png", "C_up")]
    + [("a\nb.png", "a_b")],
)
def test_names_are_bare(file, name):
    assert image_name(file) == name


def test_what_can_be_read_of_a_folder_and_how_much_can_not(tmp_path, capsys):
    for name in "adgh":
        write_png(tmp_path / f"{name}.png", PIXELS)
    (tmp_path / "c.png").write_text("no picture")
    assert read_folder(tmp_path, "--images", np.shape) == ([PIXELS.shape] * 4, 1)
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'c.png'}: not an image")
    assert read_folder(tmp_path, "--images", np.shape, at_most=2) == ([PIXELS.shape] * 2, 0)
    assert read_folder(tmp_path, "--images", np.shape, at_most=4) == ([PIXELS.shape] * 3, 1)
    for name in "adgh":
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(UserError, match="--images .*: no images in it that can be read"):
        read_folder(tmp_path, "--images", np.shape)
