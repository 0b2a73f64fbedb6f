"""Figures of a comparison, from two tiny runs of the programs."""

import pytest

from data.images import read_image
from examples import result_figures
from metrics.results import run_folder
from utility import UserError

RUNS = {"low": "--dynamic_ratio 0.5", "other": "--quantizer pams"}


@pytest.fixture
def runs(launch, experiments):
    for name, flags in RUNS.items():
        common = f"--scale 2 --save cmp/{name} {flags}"
        assert launch(f"{common} --epochs 3", quantized=True) == 0
        latest = experiments / "cmp" / name / "model" / "checkpoint.pth.tar"
        assert launch(f"{common} --test_only --refine {latest} --save_results", quantized=True) == 0
    return experiments / "cmp"


def test_every_figure_is_drawn(runs, tiny_data, tmp_path, capsys):
    flags = ["--full", "cmp/low", "--runs", "cmp/low", "cmp/other", "--shown", "cmp/other", "--images", "Tiny/one",
             "--dir_data", str(tiny_data), "--curve", "Tiny", "--out", str(tmp_path / "figures")]
    assert result_figures.main(flags) == 0
    written = capsys.readouterr().out.splitlines()[-4:]
    assert [path.rpartition("/")[2] for path in written] == ["crops_one.png", "psnr_over_epochs.png",
                                                            "bounds_over_training.png", "gate_places.png"]
    assert all(read_image(path).std() > 0 for path in written)


def test_results_of_two_networks_are_not_taken_for_one(runs):
    image, scale = result_figures.saved_result("cmp/low", "Tiny", "one")
    assert image.ndim == 3 and scale == 2
    folder = runs / "low" / "results-Tiny"
    [path] = folder.glob("*bit_one_x2_SR.png")
    (folder / "16bit_one_x2_SR.png").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="results-Tiny: holds 2 results of one; test the run"):
        result_figures.saved_result("cmp/low", "Tiny", "one")
    with pytest.raises(UserError, match="results-Tiny: holds no result of nowhere"):
        result_figures.saved_result("cmp/low", "Tiny", "nowhere")


def test_curves_leave_out_calibration_and_later_tests(runs):
    assert [epoch for epoch, _ in result_figures.read_curve(runs / "low", "Tiny")] == [2, 3]
    with pytest.raises(UserError, match="no Set5 by epoch"):
        result_figures.read_curve(runs / "low", "Set5")


def test_runs_of_one_name_are_told_apart():
    assert result_figures.labels(["a/ddtb_2bit", "a/pams_2bit"]) == {"a/ddtb_2bit": "ddtb 2bit",
                                                                     "a/pams_2bit": "pams 2bit"}
    assert result_figures.labels(["ddtb/2bit", "pams/2bit"]) == {"ddtb/2bit": "ddtb/2bit", "pams/2bit": "pams/2bit"}


def test_gates_of_a_run(runs):
    assert sum(result_figures.read_gates(run_folder("cmp/low")).values()) == 1
    assert result_figures.read_gates(runs / "other") == {}
