from argparse import Namespace

import numpy as np
import pytest

from data.images import write_png


@pytest.fixture
def add_images():
    """Function that writes a set of random images: LR at `scale`, and HR in which each LR pixel is a square of equals.

    However a pair is cropped and turned, hr[::scale, ::scale] is then lr. Returns {name: LR pixels}.
    """

    def write(hr_folder, lr_folder, names, *, scale=2, size=(20, 16), seed=0, lr_suffix=""):
        rng = np.random.default_rng(seed)
        pixels = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name in names}
        for name, lr in pixels.items():
            write_png(lr_folder / f"X{scale}" / f"{name}x{scale}.png", lr)
            write_png(hr_folder / f"{name}.png", lr.repeat(scale, axis=0).repeat(scale, axis=1))
        return pixels

    return write


@pytest.fixture
def div2k(add_images):
    """Function that writes a DIV2K-like set of `count` images at <dir_data>/<name>."""

    def write(dir_data, count=6, *, name="DIV2K", first=1, **kind):
        root = dir_data / name
        names = [f"{number:04d}" for number in range(first, first + count)]
        return add_images(root / f"{name}_train_HR", root / f"{name}_train_LR_bicubic", names, **kind)

    return write


@pytest.fixture
def make_options(tmp_path):
    """Function that gives parsed options for a small run over tmp_path, with what is passed put in their place."""
    usual = Namespace(
        dir_data=str(tmp_path),
        dir_demo=str(tmp_path / "demo"),
        data_train=["DIV2K"],
        data_test=["DIV2K"],
        data_range="1-4/5-6",
        ext="img",
        scale=2,
        patch_size=16,
        rgb_range=255,
        n_colors=3,
        no_augment=False,
        test_only=False,
        batch_size=4,
        test_every=5,
        seed=1,
        n_threads=0,
        cpu=True,
    )
    return lambda **changes: Namespace(**(vars(usual) | changes))
