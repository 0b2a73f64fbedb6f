import numpy as np
import onnx
import pytest
import torch

from data.images import read_image, write_png
from quant import export, upscale
from quant.deploy.onnx_backend import OnnxNetwork
from utility import UserError, run_main


@pytest.fixture
def exported(small_network, tmp_path):
    """A small EDSR x2 without gates, exported: its receptive field is less than the tiles' overlap."""
    path = tmp_path / "x.onnx"
    onnx.save(export.export(small_network("edsr", dynamic=0)), path)
    return path


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("length", "tile"), [(10, 0), (100, 100), (101, 100), (1000, 100), (999, 70)])
def test_cuts_cover_everything_once(length, tile):
    pieces = upscale.cuts(length, tile)
    assert [start for start, *_ in pieces] == [0, *(stop for _, stop, *_ in pieces[:-1])] and pieces[-1][1] == length
    for start, stop, first, last in pieces:
        assert 0 <= first <= start < stop <= last <= length and (tile == 0 or last - first <= tile)
        assert first in (0, start - upscale.OVERLAP) and last in (length, stop + upscale.OVERLAP)


def test_tiles_do_not_show(exported):
    network = OnnxNetwork(exported, threads=1)
    whole = upscale.upscale(network, image(75, 120), tile=0)
    tiled = upscale.upscale(network, image(75, 120), tile=70)
    assert whole.shape == (150, 240, 3) and whole.dtype == np.uint8
    assert np.array_equal(whole, tiled)


def test_same_as_the_network(exported, small_network):
    pixels = image(9, 7)
    lr = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = small_network("edsr", dynamic=0)(lr)[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    assert np.mean(upscale.upscale(OnnxNetwork(exported, threads=1), pixels) == expected) > 0.999


def test_one_colour(small_network, tmp_path):
    onnx.save(export.export(small_network("edsr", n_colors=1)), tmp_path / "y.onnx")
    grey = upscale.upscale(OnnxNetwork(tmp_path / "y.onnx", threads=1), image(6, 5))
    assert grey.shape == (12, 10, 3) and np.array_equal(grey[..., 0], grey[..., 2])


def test_command_line(exported, tmp_path, capsys):
    write_png(tmp_path / "in" / "a.png", image(8, 9))
    write_png(tmp_path / "in" / "b.png", image(6, 7))
    flags = ["--onnx", str(exported), "--output", str(tmp_path / "out"), "--threads", "1", "--input"]
    assert run_main(lambda: upscale.main([*flags, str(tmp_path / "in")])) == 0
    assert read_image(tmp_path / "out" / "a_x2.png").shape == (16, 18, 3)
    assert run_main(lambda: upscale.main([*flags, str(tmp_path / "in" / "b.png")])) == 0
    assert "2 image(s)" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "told"), [
    (["--input", "nowhere"], "--input nowhere: no such file"),
    (["--input", ".", "--tile", "64"], "--tile 64: give 0 or more than 64"),
    (["--input", ".", "--threads", "-1"], "--threads -1"),
])
def test_mistakes_are_one_line(exported, tmp_path, monkeypatch, capsys, flags, told):
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: upscale.main(["--onnx", str(exported), "--output", "out", *flags])) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_two_images_of_one_name(exported, tmp_path):
    for name in ("a.png", "a.PNG"):
        write_png(tmp_path / "in" / name, image(4, 4))
    with pytest.raises(UserError, match="differ in their suffix alone"):
        upscale.main(["--onnx", str(exported), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")])
