import re
import shutil
import subprocess
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from metrics import psnr_ssim

METRICS = Path(__file__).resolve().parents[2] / "metrics"
ROW = re.compile(r"^(.+?) +(\d+\.\d{6}) +(\d\.\d{6})$", re.MULTILINE)

needs_interpreter = pytest.mark.skipif(
    not (shutil.which("matlab") or shutil.which("octave-cli")),
    reason="neither MATLAB nor GNU Octave is installed (apt-get install octave)",
)


def run_script(*arguments):
    command = [METRICS / "run.sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=METRICS.parent)


def upscaled(lr, size):
    """A colour result that is not quite grey even where the LR image is, as a network's would be."""
    image = np.asarray(Image.fromarray(lr).convert("RGB").resize(size, Image.Resampling.BICUBIC)).astype(int)
    image[..., 0] += 2
    return image.clip(0, 255).astype(np.uint8)


def assert_same_figures(output, scores):
    """Both print six decimals, so they may differ by one unit in the last."""
    rows = ROW.findall(output)
    assert len(rows) == len(scores) + 1
    for (_, psnr, ssim), score in zip(rows, [*scores, psnr_ssim.mean_score(scores)], strict=True):
        assert float(psnr) == pytest.approx(score.psnr, abs=1.001e-6)
        assert float(ssim) == pytest.approx(score.ssim, abs=1.001e-6)


@pytest.mark.slow
@needs_interpreter
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_network_outputs_give_the_figures_of_python(shared, tmp_path, scale):
    data = shared / "data" / "matlab_metrics" / f"X{scale}"
    run, dir_data = tmp_path / "it's a run", tmp_path / "datasets"
    shutil.copytree(data / "HR", dir_data / "benchmark" / "Set5" / "HR")
    results = run / "results-Set5"
    results.mkdir(parents=True)
    for path in (data / "SR").iterdir():
        shutil.copy(path, results / f"3bit_{path.stem}_x{scale}_SR.png")
    done = run_script("Set5", scale, 3, run, dir_data)
    assert done.returncode == 0, done.stderr
    scores, _ = psnr_ssim.evaluate(data / "HR", results, scale=scale, bit=3)
    assert_same_figures(done.stdout, scores)


@pytest.mark.slow
@needs_interpreter
@pytest.mark.parametrize("scale", [2, 4])
def test_grey_and_larger_hr_images_give_the_figures_of_python(shared, tmp_path, scale):
    """Set14: one HR image is grey, some are no multiple of the scale."""
    data = shared / "data"
    originals, results = tmp_path / "datasets" / "benchmark" / "Set14" / "HR", tmp_path / "run" / "results-Set14"
    shutil.copytree(data / "benchmark" / "Set14" / "HR", originals)
    results.mkdir(parents=True)
    for path in originals.iterdir():
        lr = iio.imread(data / "matlab_lr" / "Set14" / f"X{scale}" / f"{path.stem}x{scale}.png")
        sr = upscaled(lr, (scale * lr.shape[1], scale * lr.shape[0]))
        iio.imwrite(results / f"4bit_{path.stem}_x{scale}_SR.png", sr)
    assert iio.imread(originals / "bridge.png").ndim == 2
    done = run_script("Set14", scale, 4, tmp_path / "run", tmp_path / "datasets")
    assert done.returncode == 0, done.stderr
    scores, _ = psnr_ssim.evaluate(originals, results, scale=scale, bit=4)
    assert_same_figures(done.stdout, scores)


@pytest.mark.slow
@needs_interpreter
def test_every_bit_depth_gives_the_figures_of_python(tmp_path):
    originals, results = tmp_path / "benchmark" / "Mine" / "HR", tmp_path / "results-Mine"
    originals.mkdir(parents=True)
    results.mkdir()
    deep = np.random.default_rng(0).integers(0, 65536, (24, 24), dtype=np.uint16)
    sr = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    kinds = {"palette": Image.fromarray(sr).quantize(16), "bilevel": Image.fromarray(deep > 30000)}
    for name, image in (kinds | {"deep": Image.fromarray(deep)}).items():
        image.save(originals / f"{name}.png")
        iio.imwrite(results / f"{name}.png", sr)
    done = run_script("Mine", 2, 4, tmp_path, tmp_path)
    scores, _ = psnr_ssim.evaluate(originals, results, scale=2)
    assert len(scores) == 3
    assert_same_figures(done.stdout, scores)


@pytest.mark.slow
@needs_interpreter
def test_missing_partners_and_folders_are_told(tmp_path):
    originals, results = tmp_path / "benchmark" / "Mine" / "HR", tmp_path / "results-Mine"
    for folder, names in ((originals, ["a.png", "b.png"]), (results, ["a.png"])):
        folder.mkdir(parents=True)
        for name in names:
            seed = 0 if folder == originals else 1
            iio.imwrite(folder / name, np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    done = run_script("Mine", 2, 4, tmp_path, tmp_path)
    assert done.returncode == 0 and f"missing: b has no partner in {results}" in done.stdout
    scores, _ = psnr_ssim.evaluate(originals, results, scale=2)
    assert_same_figures(done.stdout, scores)
    done = run_script("Mine+Other", 2, 4, tmp_path, tmp_path)
    assert done.returncode == 2 and "Other/HR: no PNG images of Other in it" in done.stderr
