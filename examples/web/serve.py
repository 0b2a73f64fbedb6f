"""Put the page together and serve it: `make web`, or `python -m examples.web.serve [--onnx FILE]`.

The folder that it makes, ../experiment/web/site, needs no server side: any host of static files can have it.
"""

import argparse
import contextlib
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from data.demo_set import TRAIN, photograph
from data.images import read_image, write_png
from data.imresize import imresize
from examples import ROOT
from option import EXPERIMENT_ROOT
from utility import UserError, first_line, run_main

PAGE = Path(__file__).parent
SHIPPED = ROOT / "pretrained" / "edsr_x4_4bit.safetensors"
NETWORK, SITE = EXPERIMENT_ROOT / "web" / "edsr_x4_4bit.onnx", EXPERIMENT_ROOT / "web" / "site"
MARGIN = 64  # a quarter of a tile, as worker.js has it
PAGE_FILES = ("*.html", "*.css", "*.js")
RUNTIME = "onnxruntime-web"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
NPM_INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
SAMPLE, SAMPLE_REDUCED = "chelsea.png", 2
LARGEST_SIDE, REDUCED = 768, 4
# browsers let threads share memory on pages that promise to keep others out
HEADERS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp",
           "Cache-Control": "no-cache"}


def main(argv=None):
    """Make what is missing, then serve until it is interrupted. Raises UserError."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--onnx", type=Path, default=NETWORK,
                        help="file of quant.export --rest int8 --gates fold (default: the shipped EDSR x4, exported "
                             "to %(default)s where that is missing or older than what it is made of)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0: to other devices too")
    parser.add_argument("--port", type=int, default=8000, help="port (default: %(default)s)")
    parser.add_argument("--build", action="store_true", help="make the folder, and do not serve it")
    options = parser.parse_args(argv)
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port {options.port}: give 0 to 65535")
    if options.onnx == NETWORK and not _is_fresh(NETWORK):
        export_shipped(NETWORK)
    build(SITE, options.onnx, install_runtime())
    print(f"{SITE}: {sizes(SITE)}")
    if not options.build:
        serve(SITE, options.host, options.port)
    return 0


def _is_fresh(path):
    """Whether a file is newer than the network and the code that it is made of."""
    made_of = [SHIPPED, *(file for package in ("data", "model", "quant") for file in (ROOT / package).rglob("*.py"))]
    return path.exists() and path.stat().st_mtime > max(one.stat().st_mtime for one in made_of)


def export_shipped(path: Path) -> None:
    """Export the shipped network to `path`, calibrated on photographs of scikit-image that no test uses."""
    from quant import export  # needs the package onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in TRAIN:
            write_png(Path(folder, name).with_suffix(".png"), low_resolution(name))
        export.main(["--refine", str(SHIPPED), "--out", str(path), "--calib", folder, "--rest", "int8",
                     "--gates", "fold"])


def low_resolution(name: str, reduced: int = REDUCED) -> np.ndarray:
    """One of scikit-image's photographs, uint8 [h, w, 3], cut at LARGEST_SIDE and reduced by `reduced`."""
    return imresize(read_image(photograph(name))[:LARGEST_SIDE, :LARGEST_SIDE], 1 / reduced)


def install_runtime() -> Path:
    """The folder of the runtime's files, as package.json asks for it; npm installs it where it is missing."""
    wanted = json.loads((PAGE / "package.json").read_text())["dependencies"][RUNTIME]
    package = PAGE / "node_modules" / RUNTIME
    with contextlib.suppress(OSError, ValueError):
        if json.loads((package / "package.json").read_text())["version"] == wanted:
            return package / "dist"
    npm = shutil.which(NPM_INSTALL[0])
    if npm is None:
        raise UserError(f"npm: not found; install Node.js, it fetches the package {RUNTIME}")
    if subprocess.run([npm, *NPM_INSTALL[1:]], cwd=PAGE).returncode:
        raise UserError(f"npm: could not install {RUNTIME} {wanted}; what it printed says why")
    return package / "dist"


def build(site: Path, onnx: Path, runtime: Path) -> None:
    """Fill the folder `site`: the page, the network, what the page must know of it, the runtime, a sample picture.

    Raises UserError for a file that quant.export did not make, or whose network the page can't run in tiles.
    """
    described = describe(onnx)
    (site / "runtime").mkdir(parents=True, exist_ok=True)
    for pattern in PAGE_FILES:
        for path in PAGE.glob(pattern):
            shutil.copyfile(path, site / path.name)
    for name in RUNTIME_FILES:
        shutil.copyfile(runtime / name, site / "runtime" / name)
    if not (site / described["file"]).exists() or not onnx.samefile(site / described["file"]):  # built from before
        shutil.copyfile(onnx, site / described["file"])
    (site / "network.json").write_text(json.dumps(described))
    write_png(site / "sample.png", low_resolution(SAMPLE, SAMPLE_REDUCED))


def describe(onnx: Path) -> dict:
    """What network.json says of an exported file. Raises UserError."""
    from quant.deploy.onnx_backend import OnnxNetwork  # needs the package onnxruntime

    network = OnnxNetwork(onnx, threads=1)
    if network.gated:
        raise UserError(f"{onnx}: its gates need the whole picture, the page has tiles; export with --gates fold")
    if network.settings["n_colors"] != 3:
        raise UserError(f"{onnx}: enlarges luma alone; the page needs a network of three colours")
    if network.reach > MARGIN:
        raise UserError(f"{onnx}: sees {network.reach} pixels around a pixel, and the page's tiles have margins of "
                        f"{MARGIN}; enlarge with python -m quant.upscale")
    return {"file": "network.onnx", "name": f"{network.name.upper()} x{network.scale}", "scale": network.scale,
            "bits": network.k_bits, "range": network.rgb_range, "reach": network.reach}


def sizes(site: Path) -> str:
    """What a visitor loads, in words."""
    runtime = sum(path.stat().st_size for path in (site / "runtime").iterdir())
    own = sum(path.stat().st_size for path in site.iterdir() if path.is_file())
    return f"page, network and sample {own / 1e6:.2f} MB, {RUNTIME} {runtime / 1e6:.2f} MB"


class Handler(SimpleHTTPRequestHandler):
    """Files, with HEADERS and the types that browsers insist on."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript", ".mjs": "text/javascript",
                      ".wasm": "application/wasm"}

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a browser that goes away before it has all is no problem
            super().handle()

    def send_head(self):
        try:
            return super().send_head()
        except ValueError:  # a name that no file can have
            self.send_error(HTTPStatus.NOT_FOUND)
            return None

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format, *arguments):
        """Nothing: a page loads a dozen files."""


def server(site: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the folder `site`; port 0 takes a free one. Raises UserError where it can't have the port."""
    try:
        return ThreadingHTTPServer((host, port), functools.partial(Handler, directory=str(site)))
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: can't be served at ({error.strerror}); give another") from error


def serve(site: Path, host: str, port: int) -> None:
    """Serve the folder until the program is stopped."""
    with server(site, host, port) as running:
        print(f"http://{host}:{running.server_port}/  (Ctrl-C ends it)", flush=True)
        running.serve_forever()


if __name__ == "__main__":
    sys.exit(run_main(main))
