import json
import shutil
import subprocess
import threading
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from data.images import write_png
from data.imresize import imresize
from data.pictures import Picture
from examples.web import serve
from model.tiles import plan_tiles
from quant.deploy.onnx_backend import OnnxNetwork
from quant.upscale import enlarge
from utility import UserError, run_main

NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")
PACKAGES = serve.PAGE / "node_modules"
DRIVER = Path(__file__).with_name("drive_page.mjs")
TILE = 152  # the smallest whose margins are as wide as the shipped network sees

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
needs_browser = pytest.mark.skipif(
    not (NODE and CHROMIUM and (PACKAGES / "playwright-core").is_dir() and (PACKAGES / serve.RUNTIME).is_dir()),
    reason="needs chromium, node, and npm's packages: `make web` installs these")


def evaluate(expression, *modules):
    """The value of a JavaScript expression that may use the exports of the page's modules, by way of JSON."""
    imports = "".join(f"import * as {name} from '{(serve.PAGE / name).as_uri()}.js';" for name in modules)
    done = subprocess.run([NODE, "--input-type=module", "-e", f"{imports}console.log(JSON.stringify({expression}))"],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize("size, margin", [(48, 12), (40, 3), (7, 1), (300, 37)])
def test_tiles_are_those_of_the_programs(size, margin):
    shapes = [(1, 1), (48, 49), (113, 75), (20, 400)]
    told = evaluate(f"{json.dumps(shapes)}.map(([h, w]) => tiles.planTiles(w, h, {size}, {margin}))", "tiles")
    for (height, width), found in zip(shapes, told, strict=True):
        wanted = plan_tiles(height, width, size=size, margin=margin)
        assert len(found) == len(wanted)
        covered = np.zeros((height, width), int)
        for tile in found:
            y, x = tile["y"], tile["x"]
            covered[y["first"] : y["last"], x["first"] : x["last"]] += 1
            for span, length in ((y, height), (x, width)):
                assert 0 <= span["start"] <= span["first"] and span["start"] + span["length"] <= length
                assert span["first"] in (0, *range(span["start"] + margin, length))
        assert (covered == 1).all()


@needs_node
@pytest.mark.parametrize("height, width, scale", [(5, 7, 4), (1, 3, 2), (6, 2, 3)])
def test_bicubic_is_matlabs(height, width, scale):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    told = evaluate(f"[...bicubic.enlarge(new Uint8ClampedArray({pixels.ravel().tolist()}), {width}, {height}, "
                    f"{scale})]", "bicubic")
    np.testing.assert_array_equal(np.array(told, np.uint8).reshape(height * scale, width * scale, 4),
                                  imresize(pixels, scale))


@pytest.mark.parametrize("flags, problem", [("--port 99999", "--port 99999: give 0 to 65535"),
                                            ("--onnx missing.onnx", "missing.onnx: no such file"),
                                            ("--onnx README.md", "README.md")])
def test_what_is_no_network_is_told_in_a_line(flags, problem, experiments, capsys):
    Path("README.md").write_text("no network")
    assert run_main(lambda: serve.main(["--build", *flags.split()])) == 2
    assert problem in capsys.readouterr().err
    assert not serve.SITE.exists()


def test_without_npm_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "PAGE", tmp_path)
    monkeypatch.setenv("PATH", "")
    shutil.copy(Path(serve.__file__).with_name("package.json"), tmp_path)
    with pytest.raises(UserError, match="npm: not found; install Node.js"):
        serve.install_runtime()


def test_a_port_that_is_taken_is_told(tmp_path):
    with serve.server(tmp_path, "127.0.0.1", 0) as first, pytest.raises(UserError, match="--port"):
        serve.server(tmp_path, "127.0.0.1", first.server_port)


def test_a_name_that_no_file_can_have_is_not_found(tmp_path):
    with serve.server(tmp_path, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{server.server_port}/%00")
        server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address and the folder of the page as `make web` serves it, with the shipped network."""
    folder = tmp_path_factory.mktemp("web") / "site"
    network = folder.with_name("edsr_x4_4bit.onnx")
    serve.export_shipped(network)
    serve.build(folder, network, serve.install_runtime())
    with serve.server(folder, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


@pytest.fixture
def drop(site, tmp_path):
    """Function that drops a file on the page; returns what the page says, canvases lie in tmp_path."""

    def run(path, query=""):
        done = subprocess.run([NODE, DRIVER, PACKAGES / "playwright-core", CHROMIUM, tmp_path / "profile",
                               site[0] + query, path, tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert not told["errors"]
        return told

    return run


def canvas(folder, name):
    """The pixels of a canvas, uint8 [H, W, 3]; it is opaque."""
    pixels = np.array(Image.open(folder / f"{name}.png"))
    assert (pixels[..., 3:] == 255).all()
    return pixels[..., :3]


@pytest.mark.slow
@needs_browser
class TestInChromium:
    def test_a_picture_is_enlarged_as_upscale_does(self, site, drop, tmp_path):
        picture = serve.low_resolution("astronaut.png", 3)[:40, :166]
        write_png(tmp_path / "a picture.png", picture)
        told = drop(tmp_path / "a picture.png", f"?tile={TILE}")
        assert not told["message"] and not told["note"]
        assert told["status"].startswith("664 × 160 pixels in ") and told["saved"] == "a picture_x4.png"
        network = OnnxNetwork(site[1] / "network.onnx", threads=1)
        assert network.reach <= TILE // 4
        wanted = enlarge(network, Picture(picture)).colours
        assert np.abs(canvas(tmp_path, "network").astype(int) - wanted).max() <= 1
        np.testing.assert_array_equal(canvas(tmp_path, "bicubic"), imresize(picture, 4))
        own = sum(size for address, size in told["loaded"].items() if "/runtime/" not in address)
        assert all(address.startswith(site[0]) for address in told["loaded"])
        assert 1e6 < own < 4e6

    def test_what_is_transparent_becomes_white(self, site, drop, tmp_path):
        colours = np.full((12, 16, 3), (200, 30, 90), np.uint8)
        alpha = np.zeros((12, 16), np.uint8)
        alpha[:, 8:] = 255
        Picture(colours, alpha=alpha).write(tmp_path / "half.png")
        assert drop(tmp_path / "half.png")["note"] == "Its transparent parts are filled with white."
        colours[:, :8] = 255
        wanted = enlarge(OnnxNetwork(site[1] / "network.onnx", threads=1), Picture(colours)).colours
        assert np.abs(canvas(tmp_path, "network").astype(int) - wanted).max() <= 1

    def test_what_is_no_picture_is_told(self, drop, tmp_path):
        (tmp_path / "notes.png").write_text("no picture")
        assert drop(tmp_path / "notes.png")["message"].startswith("notes.png: this browser can’t read it as a picture")

    def test_of_a_large_picture_the_middle_is_offered(self, site, drop, tmp_path):
        picture = np.random.default_rng(0).integers(0, 256, (6, 5000, 3), dtype=np.uint8)
        write_png(tmp_path / "long.png", picture)
        told = drop(tmp_path / "long.png", f"?tile={TILE}")
        assert told["refused"] == "long.png has 5000 × 6 pixels, more than this page enlarges."
        assert told["offered"] == "Enlarge its middle, 1024 × 6"
        assert told["note"] == "This is its middle, 1024 × 6 pixels." and not told["message"]
        network = OnnxNetwork(site[1] / "network.onnx", threads=1)
        wanted = enlarge(network, Picture(picture[:, 1988:3012]), tile=0).colours
        assert np.abs(canvas(tmp_path, "network").astype(int) - wanted).max() <= 1


def test_networks_that_the_page_cannot_run_are_refused(tmp_path, monkeypatch):
    class Told:
        gated, settings, name, scale = True, {"n_colors": 1}, "edsr", 2

        def __init__(self, *_, **__):
            pass

    monkeypatch.setattr("quant.deploy.onnx_backend.OnnxNetwork", Told)
    with pytest.raises(UserError, match="export with --gates fold"):
        serve.describe(tmp_path / "any.onnx")
    Told.gated = False
    with pytest.raises(UserError, match="three colours"):
        serve.describe(tmp_path / "any.onnx")


@needs_node
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_middle_of_a_large_picture_has_whole_pixels(scale):
    script = (serve.PAGE / "page.js").read_text()
    [line] = [line for line in script.splitlines() if line.startswith("const side = ")]
    side = evaluate(f"((LARGEST, network) => {{ {line} return side; }})(4096, {{ scale: {scale} }})")
    assert side == 4096 // scale
