import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import main_limitrange_incremental
import main_ori
from data.images import write_png
from model import rdn
from utility import run_main

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # modules that several tests import

PROGRAMS = {False: main_ori.main, True: main_limitrange_incremental.main}
TINY = (
    "--cpu --n_threads 0 --scale 2 --n_feats 8 --n_resblocks 1 --patch_size 16 --batch_size 2 --test_every 3 "
    "--epochs 1 --data_range 1-5/6-6 --data_test Tiny --ext img --dynamic_ratio 0.5"
).split()


@pytest.fixture(scope="session")
def shared():
    """The folder `shared/` beside the repository: reference numbers and real images."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: reference numbers and benchmark images are not here")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data folder with DIV2K, 6 images to train with, and benchmark/Tiny, 2 images; scale 2, LR 20x16."""
    return write_tiny_data(tmp_path_factory.mktemp("tiny"))


def write_tiny_data(root):
    """Fill `root` as `tiny_data` says; LR is random, HR repeats its pixels. Returns root."""
    rng = np.random.default_rng(0)
    sets = [(root / "DIV2K", "DIV2K_train_HR", "DIV2K_train_LR_bicubic", [f"{n:04d}" for n in range(1, 7)]),
            (root / "benchmark" / "Tiny", "HR", "LR_bicubic", ["one", "two"])]
    for folder, hr, lr, names in sets:
        for name in names:
            pixels = rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)
            write_png(folder / lr / "X2" / f"{name}x2.png", pixels)
            write_png(folder / hr / f"{name}.png", pixels.repeat(2, axis=0).repeat(2, axis=1))
    return root


@pytest.fixture
def small_rdn(monkeypatch):
    """RDN's config A means 2 blocks of 2 convolutions here."""
    monkeypatch.setitem(rdn.CONFIGS, "A", (2, 2, 8))


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """The folder that runs lie in, ../experiment of the working directory, which becomes a temporary one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "experiment"


@pytest.fixture(scope="session")
def launch_anywhere(tiny_data):
    """Function that runs an entry point in this process, on tiny data and a tiny network; returns its exit code.

    flags: one string; they come after the tiny ones and win. quantized: the quantizing program, at 4 bits.
    """

    def run(flags="", *, quantized=False, data=tiny_data):
        bits = ["--k_bits", "4"] if quantized else []
        return run_main(lambda: PROGRAMS[quantized]([*TINY, *bits, "--dir_data", str(data), *shlex.split(flags)]),
                        lighter=main_ori.LIGHTER)

    return run


@pytest.fixture
def launch(experiments, launch_anywhere):
    """`launch_anywhere` in a temporary working directory, with runs in `experiments`."""
    return launch_anywhere
