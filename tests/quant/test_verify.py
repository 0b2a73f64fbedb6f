"""The comparison of an exported file with its network."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from data.images import write_png
from model.torch_file import save_torch_file
from quant import cost, export, verify
from quant.deploy.onnx_backend import OnnxNetwork
from quant.deploy.packed import write_packed
from quant.open import open_network
from utility import run_main


@pytest.fixture
def pair(small_network, smooth_image, tmp_path):
    """Function that writes a network and its export: (name, dynamic, export's settings) to (file, network's file)."""
    def write(name, dynamic=0.5, **settings):
        network = small_network(name, k_bits=3, dynamic=dynamic)
        save_torch_file({}, tmp_path / "source.pt")
        write_packed(network, tmp_path / "x.safetensors", source=tmp_path / "source.pt")
        made = export.export(network, images=[smooth_image(24, 24)], **settings)
        onnx.save(made, tmp_path / "x.onnx")
        return tmp_path / "x.onnx", tmp_path / "x.safetensors"

    return write


def run(pair, *flags):
    file, against = pair
    return run_main(lambda: verify.main([str(file), "--against", str(against), *flags]))


@pytest.mark.parametrize(("name", "settings"), [
    ("rdn", {}), ("edsr", {"rest": "int8"}), ("srresnet", {"format": "qdq"}), ("edsr", {"gates": "fold"})])
def test_a_sound_file(pair, capsys, name, settings):
    assert run(pair(name, **settings)) == 0
    out = capsys.readouterr().out
    assert "of the 8-bit values are equal" in out and "promises" in out
    if settings.get("rest") == "int8":
        assert "features between the quantizers are 8-bit here" in out


@pytest.mark.parametrize("format", ["qlinear", "qdq"])
def test_a_gate_that_gives_other_bounds_is_told(pair, tmp_path, capsys, format):
    """Bounds of the packed network 1.5 times as wide: the gates' steps in the file are 2/3 of PyTorch's."""
    file, against = pair("edsr", dynamic=1.0, format=format, source={"file": "a.pth.tar", "sha256": "0" * 64})
    run((file, against))
    out = capsys.readouterr().out
    assert "its gate's bounds" not in out and "another network" not in out
    network = open_network(against)
    with torch.no_grad():
        for name, bound in network.named_parameters():
            if "alpha" in name:
                bound.mul_(1.5)
    write_packed(network, against, source=tmp_path / "source.pt")
    assert run((file, against)) == 1
    out = capsys.readouterr().out
    assert "its gate's bounds by -33.3% at most" in out.splitlines()[0]
    assert "so many are no rounding ties; the file was made of another network" in out


def test_the_file_it_was_made_of_is_told(pair, capsys):
    file, against = pair("edsr", source={"file": "a.pth.tar", "sha256": "0" * 64})
    assert run((file, against)) == 0
    assert "note: it was made of a.pth.tar, and --against is another file" in capsys.readouterr().out


def test_openvino_and_images_of_ones_own(pair, tmp_path, smooth_image, capsys):
    write_png(tmp_path / "images" / "a.png", smooth_image(20, 18)[0].permute(1, 2, 0).byte().numpy())
    found = pair("srresnet", dynamic=0, format="qdq")
    flags = ("--backend", "openvino", "--images", str(tmp_path / "images"))
    assert run(found, *flags) == 0
    assert "dB" in capsys.readouterr().out
    (tmp_path / "images" / "b.png").write_text("no picture")  # it is listed, the other one done
    assert run(found, *flags) == 1
    told = capsys.readouterr()
    assert "dB" in told.out and told.err.startswith(f"error: {tmp_path / 'images' / 'b.png'}: not an image")


def test_threads_may_share_a_network_in_openvino(pair, smooth_image):
    network = OnnxNetwork(pair("srresnet", dynamic=0, format="qdq")[0], runtime="openvino", threads=1)
    images = [smooth_image(20, 18, seed=seed) for seed in range(2)]
    expected = [network(image) for image in images]
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda number: network(images[number % 2]), range(200))]
    assert all(torch.equal(sr, expected[number % 2]) for number, sr in enumerate(found))


RELEASED = """
import faulthandler, os, signal, sys
from pathlib import Path
from quant.deploy.onnx_backend import OpenVinoSession
faulthandler.enable()  # as pytest does: handlers of signals get a stack of their own
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
path = Path(sys.argv[1])
sessions = [OpenVinoSession(path, 1, path.read_bytes()) for _ in range(2)]
while sessions:
    del sessions[0]
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_two_sessions_of_openvino_is_handled(pair):
    file, _ = pair("srresnet", dynamic=0, format="qdq")
    done = subprocess.run([sys.executable, "-c", RELEASED, str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_the_first_layer_that_differs_is_named(pair, capsys):
    """A bias that has been tampered with shows in the quantizer behind it, and not before."""
    file, against = pair("srresnet", dynamic=0, weights="plain", format="qdq")
    exported = onnx.load(file)
    conv = next(node for node in exported.graph.node if node.name == "residual.0.conv1/Conv")
    scale = next(node for node in exported.graph.node if node.output[0] == conv.input[1]).input[1]
    constant = next(one for one in exported.graph.initializer if one.name == scale)
    constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * 3, scale))
    onnx.save(exported, file)
    run((file, against))
    assert "first layer that differs: residual.0.act2" in capsys.readouterr().out


def test_a_file_below_its_promise(pair, capsys):
    file, against = pair("srresnet", dynamic=0)
    exported = onnx.load(file)
    for entry in exported.metadata_props:
        if entry.key == "least_db":
            entry.value = "101"
    onnx.save(exported, file)
    assert run((file, against)) == 1


def test_what_differs_behind_the_last_quantizer_is_told(pair, tmp_path, capsys):
    """Blue off by 40 where luma stays: every level is PyTorch's, and luma alone would tell nothing."""
    file, against = pair("edsr", dynamic=0)
    network = open_network(against)
    with torch.no_grad():
        network.tail[1].bias += torch.tensor([0, -7.77, 40])
    write_packed(network, against, source=tmp_path / "source.pt")
    assert run((file, against)) == 1
    told = capsys.readouterr().out
    assert "have PyTorch's levels, and the images differ by 40 of 255: the file was made of another network" in told


def test_images_that_are_equal_do_not_hide_one_that_is_not(pair, tmp_path, smooth_image, capsys):
    """A file below its promise on one image of four: black ones have no error, which counts as 100 dB."""
    file, against = pair("srresnet", dynamic=0, rest="int8")
    network = open_network(against)
    with torch.no_grad():
        network.conv_output.weight *= 1.5
    write_packed(network, against, source=tmp_path / "source.pt")
    for name in "abc":
        write_png(tmp_path / "images" / f"{name}.png", np.zeros((20, 20, 3), np.uint8))
    assert run((file, against), "--images", str(tmp_path / "images")) == 0
    write_png(tmp_path / "images" / "d.png", smooth_image(20, 18)[0].permute(1, 2, 0).byte().numpy())
    assert run((file, against), "--images", str(tmp_path / "images")) == 1
    assert "dB at the least (image 4 of 4)" in capsys.readouterr().out


def test_mistakes_are_one_line(pair, tmp_path, small_network, capsys):
    file, against = pair("edsr", dynamic=0)
    other = small_network("edsr", scale=3, dynamic=0)
    write_packed(other, tmp_path / "y.safetensors", source=tmp_path / "source.pt")
    assert run((file, tmp_path / "y.safetensors")) == 2
    err = capsys.readouterr().err
    assert "is of --scale 3 (asked for: 2), --k_bits 4 (asked for: 3) by" in err and err.count("\n") == 1
    for settings in ({"rgb_range": 1}, {"n_colors": 1}, {"res_scale": 1.0}):
        other = small_network("edsr", k_bits=3, dynamic=0, **settings)
        write_packed(other, tmp_path / "z.safetensors", source=tmp_path / "source.pt")
        assert run((file, tmp_path / "z.safetensors")) == 2
        ((name, value),) = settings.items()
        assert f"is of --{name} {value} (asked for: " in capsys.readouterr().err
    exported = onnx.load(file)
    del exported.metadata_props[[entry.key for entry in exported.metadata_props].index("levels")]
    onnx.save(exported, file)
    assert run((file, against)) == 2
    assert "does not say where its quantizers' levels are" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value", "message"), [
    ("levels", "[1", "its levels can't be read"),
    ("levels", "[]", "levels [] is not of the type dict"),
    ("levels", '{"body.0.act1": ["x", 1]}', "levels body.0.act1: a tensor, a step and a zero point are needed"),
    ("levels", '{"body.9.act1": ["x", 1, 0]}', "speaks of body.9.act1, which --against does not have"),
    ("levels", '{"body.0.act1": ["nowhere", 1, 0]}', "can't load it"),
    ("levels", '{"body.0.act1": ["lr", 1, 0]}', "its lr does not hold the levels of body.0.act1"),
    ("least_db", '"much"', "least_db 'much' is not of the type float"),
    ("least_db", "0", "does not say where its quantizers' levels are"),
    ("folded", '{"body.0.act1": [1]}', "folded body.0.act1: two numbers are needed"),
    ("folded", '{"body.9.act1": [-1, 1]}', "speaks of body.9.act1"),
])
def test_metadata_that_does_not_fit_is_one_line(pair, capsys, key, value, message):
    file, against = pair("edsr", dynamic=0)
    exported = onnx.load(file)
    next(entry for entry in exported.metadata_props if entry.key == key).value = value
    onnx.save(exported, file)
    assert run((file, against)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {file}: ") and message in err and err.count("\n") == 1


def test_cost_tells_the_sizes_of_all_forms(pair, capsys):
    _, against = pair("edsr", dynamic=0)
    assert run_main(lambda: cost.main(["--refine", str(against)])) == 0
    out = capsys.readouterr().out
    assert "file, packed" in out and "file, ONNX, qlinear, rest int8" in out and "file, ONNX, qdq, rest fp32" in out


def test_gated_qdq_files_in_tiles(small_network, smooth_image, tmp_path, monkeypatch):
    """Without a Scan too, gates see the whole image."""
    from quant.deploy.onnx_backend import OnnxNetwork

    onnx.save(export.export(small_network("edsr", dynamic=1), format="qdq"), tmp_path / "x.onnx")
    lr = torch.cat([smooth_image(70, 50), 255 - 0.3 * smooth_image(70, 40)], 3)
    for runtime in ("onnx", "openvino"):
        if runtime == "openvino":  # it has to do without the other one
            monkeypatch.setitem(sys.modules, "onnxruntime", None)
        backend = OnnxNetwork(tmp_path / "x.onnx", threads=1, runtime=runtime)
        assert backend.gated
        whole, tiled = (backend.in_tiles(lr, size=size, finish=lambda sr: sr) for size in (90, 64))
        assert (whole - tiled).abs().mean() < 0.05
