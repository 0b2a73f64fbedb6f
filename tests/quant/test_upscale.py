import numpy as np
import onnx
import pytest
import torch

from data.images import read_image, write_png
from data.pictures import Picture
from model.registry import NETWORKS
from quant import export, upscale
from quant.activation import gates_in_use
from quant.deploy.onnx_backend import OnnxNetwork
from quant.deploy.onnx_file import GATE
from quant.deploy.tiled_gates import TiledGates
from utility import UserError, run_main


@pytest.fixture
def exported(small_network, tmp_path):
    """A small EDSR x2 without gates, exported: its receptive field is less than the tiles' overlap."""
    path = tmp_path / "x.onnx"
    onnx.save(export.export(small_network("edsr", dynamic=0)), path)
    return path


def enlarged(network, pixels, tile=None):
    return upscale.enlarge(network, Picture(pixels), tile=tile).colours


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tiles_too_small_for_the_margins_are_told(tmp_path, caplog):
    onnx.save(export.export(NETWORKS["edsr"](scale=2, n_feats=4, n_resblocks=16).eval()), tmp_path / "x.onnx")
    write_png(tmp_path / "a.png", image(20, 20))
    flags = ["--onnx", str(tmp_path / "x.onnx"), "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    least = upscale.exact_tile(OnnxNetwork(tmp_path / "x.onnx"))
    assert least > upscale.SMALLEST_TILE + 1
    for tile, told in ((least - 1, True), (least, False)):
        caplog.clear()
        assert run_main(lambda tile=tile: upscale.main([*flags, "--tile", str(tile)])) == 0
        assert (f"margins of tiles below {least} are narrower" in caplog.text) == told


def test_an_empty_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        upscale.main(["--onnx", "x.onnx", "--input", "", "--output", "y"])
    assert "argument --input: is empty; name a file or folder" in capsys.readouterr().err


def test_tiles_do_not_show(exported):
    network = OnnxNetwork(exported, threads=1)
    whole = enlarged(network, image(75, 120), tile=0)
    tiled = enlarged(network, image(75, 120), tile=70)
    assert whole.shape == (150, 240, 3) and whole.dtype == np.uint8
    assert np.array_equal(whole, tiled)


@pytest.mark.parametrize("rest", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["edsr", "rdn", "srresnet"])
def test_tiles_do_not_show_where_gates_see_the_whole_image(small_network, smooth_image, tmp_path, name, rest):
    network = small_network(name, dynamic=1)
    images = [smooth_image(24, 24)] if rest == "int8" else None
    onnx.save(export.export(network, rest=rest, images=images), tmp_path / "x.onnx")
    backend = OnnxNetwork(tmp_path / "x.onnx", threads=1)
    assert backend.gated
    lr = torch.cat([smooth_image(70, 50), 255 - 0.3 * smooth_image(70, 40)], 3)
    calls = []  # the halves differ, so no tile has the mean of the image
    whole = backend.in_tiles(lr, size=90, finish=lambda sr: sr)
    tiled = backend.in_tiles(lr, size=64, finish=lambda sr: sr, progress=lambda: calls.append(1))
    assert torch.equal(whole, backend(lr)) and len(calls) > 4
    # sums of tiles and of the whole image differ in their last bits, which decides few ties of gates and features
    assert (whole - tiled).abs().mean() < 0.02


@pytest.mark.parametrize("format", ["qlinear", "qdq"])
@pytest.mark.parametrize("rest", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["edsr", "rdn", "srresnet"])
def test_of_a_tile_every_gate_sees_the_core_alone(small_network, smooth_image, name, rest, format):
    network = small_network(name, dynamic=1)
    images = [smooth_image(24, 24)] if rest == "int8" else None
    content = export.export(network, rest=rest, images=images, format=format).SerializeToString()
    cut = []
    TiledGates(content, lambda content: cut.append(onnx.load_model_from_string(content).graph))
    gates = {node.name.partition(GATE)[0] for node in cut[0].node if GATE in node.name}
    sliced = {node.name.partition(GATE)[0] for node in cut[0].node if node.op_type == "Slice" and "/core" in node.name}
    assert sliced == gates and len(gates) == len(gates_in_use(network))


def test_same_as_the_network(exported, small_network):
    pixels = image(9, 7)
    lr = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = small_network("edsr", dynamic=0)(lr)[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    assert np.mean(enlarged(OnnxNetwork(exported, threads=1), pixels) == expected) > 0.999


def test_one_colour(small_network, tmp_path):
    onnx.save(export.export(small_network("edsr", n_colors=1)), tmp_path / "y.onnx")
    grey = enlarged(OnnxNetwork(tmp_path / "y.onnx", threads=1), image(6, 5))
    assert grey.shape == (12, 10, 3)


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
    with pytest.raises(UserError, match=r"a\.(png|PNG) and a\.(png|PNG) would share a result; rename one"):
        upscale.main(["--onnx", str(exported), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")])


def test_a_file_in_the_place_of_the_folder_is_told_before_anything_is_done(exported, tmp_path):
    write_png(tmp_path / "a.png", image(4, 4))
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="--output .*out: is no folder; give another name"):
        upscale.main(["--onnx", "nowhere", "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")])


def test_an_empty_onnx_file_is_told(tmp_path):
    (tmp_path / "x.onnx").touch()
    with pytest.raises(UserError, match="x.onnx: is no ONNX file that can be read, or is cut short"):
        OnnxNetwork(tmp_path / "x.onnx")
