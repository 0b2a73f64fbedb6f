import csv
import json
import re
from pathlib import Path

import pytest

from data.layout import BENCHMARKS
from metrics import report
from model.saved import BEST
from model.torch_file import save_torch_file
from utility import UserError, run_main


def write_run(folder, *lines):
    folder.mkdir(parents=True)
    texts = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
    (folder / "eval.txt").write_text("".join(texts))
    return str(folder)


def line(set_name="Set5", psnr=31.849, ssim=0.8894, **changes):
    values = {"epoch": 60, "set": set_name, "model": "edsr", "scale": 4, "k_bits": 4, "psnr": psnr, "ssim": ssim}
    return values | {"images": BENCHMARKS.get(set_name, 5), "seconds": 1.5} | changes


def cells(table):
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def test_published_figures_are_those_of_the_release(shared):
    text = (shared / "spec" / "original-readme.md").read_text()
    printed = re.findall(r"(\d\d\.\d\d/0\.\d{3}) *\|", text)
    ours = [f"{result.psnr:.2f}/{result.ssim:.3f}" for result in report.published_results().values()
            if result.k_bits != report.FULL_PRECISION]
    assert len(printed) == 72 and ours == printed


def test_published_figures_cover_every_network_scale_set_and_bit():
    expected = {
        (model, scale, name, bits)
        for model in ("edsr", "rdn", "srresnet")
        for scale in (4, 2)
        for name in ("Set5", "Set14", "B100", "Urban100")
        for bits in (2, 3, 4)
    }
    full = {("edsr", 4, name, report.FULL_PRECISION) for name in ("Set5", "Set14", "B100", "Urban100")}
    assert report.published_results().keys() == expected | full


def test_the_table_has_the_figure_the_published_one_and_the_difference(tmp_path, capsys):
    run = write_run(
        tmp_path / "run",
        line("Urban100", 25.68, 0.775),
        line(k_bits=32, psnr=32.1, ssim=0.894),
        line(),
        line("Manga109", 30.0, 0.9),
    )
    assert report.main([run]) is None
    header, rule, *rows = cells(capsys.readouterr().out)
    assert header == ["Model", "Dataset", "Bit", "PSNR/SSIM", "Published", "Difference"]
    assert all(set(cell) == {"-"} for cell in rule)
    assert rows == [
        ["EDSRx4", "Set5", "4", "31.85/0.889", "31.85/0.889", "+0.00/+0.000"],
        ["EDSRx4", "Set5", "FP", "32.10/0.894", "32.10/0.894", "+0.00/+0.000"],
        ["EDSRx4", "Urban100", "4", "25.68/0.775", "25.69/0.774", "-0.01/+0.001"],
        ["EDSRx4", "Manga109", "4", "30.00/0.900", "-", "-"],
    ]


def test_a_part_of_a_set_is_not_compared_with_what_is_published_of_all_of_it(tmp_path, capsys):
    report.main([write_run(tmp_path / "run", line(images=2))])
    assert cells(capsys.readouterr().out)[2:] == [["EDSRx4", "Set5 (2 of 5 images)", "4", "31.85/0.889", "-", "-"]]


def test_the_last_line_of_a_set_counts_and_sets_without_hr_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", line(psnr=20.0), line("Demo", None, None), line(psnr=21.0), "\n")
    assert [(result.set, result.psnr) for result in report.read_run(run)] == [("Set5", 21.0)]


def keep_best(run, epoch):
    save_torch_file({"epoch": epoch, "best": {"epoch": epoch, "psnr": 31.0}}, Path(run) / BEST)


def test_a_trained_run_has_the_figures_of_the_network_that_it_kept(tmp_path, caplog):
    lines = [line(psnr=psnr, epoch=epoch) for epoch, psnr in ((2, 33.0), (6, 31.0), (7, 30.0), (6, 31.5))]
    run = write_run(tmp_path / "run", *lines)
    keep_best(run, 6)  # epoch 2 was better, its gates were not applied yet; 6 was tested twice, a kill between
    assert [(result.epoch, result.psnr) for result in report.read_run(run)] == [(6, 31.5)]
    assert not caplog.text
    keep_best(run, 9)
    assert [(result.epoch, result.psnr) for result in report.read_run(run)] == [(7, 30.0)]
    assert f"{BEST} is of none of the epochs" in caplog.text and "the last, 7, counts" in caplog.text


def test_a_test_of_the_kept_network_counts_and_others_have_rows_of_their_own(tmp_path, capsys):
    run = write_run(tmp_path / "run", line(psnr=31.0, epoch=6), line(psnr=31.1, epoch=0, file=BEST),
                    line(psnr=25.0, epoch=0, file="pretrained/edsr_x4_4bit.safetensors"),
                    line(psnr=30.9, epoch=0, file="a.onnx", backend="onnx"), line("Set14", 28.0, epoch=6))
    keep_best(run, 6)
    report.main([run])
    header, _, *rows = cells(capsys.readouterr().out)
    assert header[-1] == "Run"
    assert [(row[1], row[3].split("/")[0], row[-1]) for row in rows] == [
        ("Set5", "31.10", run), ("Set5", "30.90", f"{run}, a.onnx, onnx"),
        ("Set5", "25.00", f"{run}, pretrained/edsr_x4_4bit.safetensors"), ("Set14", "28.00", run)]


def test_a_test_of_a_network_that_training_has_replaced_is_left_out(tmp_path, caplog):
    run = write_run(tmp_path / "run", line(psnr=20.0, epoch=2), line("Set14", 19.0, epoch=0, file=BEST),
                    line(psnr=18.0, epoch=0, file="a.pt"), line(psnr=30.0, epoch=3))
    keep_best(run, 3)
    assert [(result.set, result.psnr, result.file) for result in report.read_run(run)] == [
        ("Set5", 18.0, "a.pt"), ("Set5", 30.0, "")]
    assert f"a test on Set14 is of an earlier {BEST}, left out; test again" in caplog.text


def test_other_images_of_a_numbered_set_have_a_row_of_their_own(tmp_path, capsys):
    run = write_run(tmp_path / "run", *(line("DIV2K", psnr, epoch=0, images=2, range=names) for psnr, names in (
        (20.0, ["0001", "0002"]), (19.0, ["0011", "0012"]), (21.0, ["0001", "0002"]))))
    report.main([run])
    rows = cells(capsys.readouterr().out)[2:]
    assert [(row[1], row[3].split("/")[0]) for row in rows] == [
        ("DIV2K (0011 to 0012)", "19.00"), ("DIV2K (0001 to 0002)", "21.00")]


def test_rows_that_look_alike_tell_their_run(tmp_path, capsys):
    runs = [write_run(tmp_path / name, line(psnr=psnr)) for name, psnr in (("a", 30.0), ("b", 31.0))]
    report.main([*runs, runs[0]])
    header, _, *rows = cells(capsys.readouterr().out)
    assert header[-1] == "Run"
    assert [(row[3], row[-1]) for row in rows] == [("30.00/0.889", runs[0]), ("31.00/0.889", runs[1])]


def test_csv_has_every_digit(tmp_path):
    run = write_run(tmp_path / "run", line(psnr=31.8491234), line("Manga109"))
    report.main([run, "--csv", str(tmp_path / "table.csv")])
    with open(tmp_path / "table.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["psnr"] == "31.8491234" and first["published_psnr"] == "31.85" and first["run"] == run
    assert float(first["psnr_difference"]) == -0.000877  # six decimals are written
    assert second["published_psnr"] == second["psnr_difference"] == ""


def test_a_run_is_found_below_the_experiment_folder(tmp_path, monkeypatch):
    write_run(tmp_path / "experiment" / "output" / "4bit", line())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert report.read_run("output/4bit")[0].run == "output/4bit"


def test_a_line_that_a_killed_run_wrote_half_is_left_out(tmp_path, caplog):
    run = write_run(tmp_path / "run", line(psnr=30.0), json.dumps(line(psnr=31.0))[:40])
    assert [result.psnr for result in report.read_run(run)] == [30.0]
    assert "eval.txt, line 2: cut short, left out" in caplog.text


@pytest.mark.parametrize("bad", ['{"set": "Set5"}\n', "[1, 2]\n", *(line(**wrong) for wrong in (
    {"images": [1]}, {"images": "many"}, {"images": 4.5}, {"k_bits": 2.7}, {"k_bits": True}, {"scale": -3},
    {"epoch": -5}, {"psnr": True}, {"ssim": "x"}, {"model": 3}, {"set": None}))])
def test_a_bad_line_is_named(tmp_path, bad):
    run = write_run(tmp_path / "run", line(), bad)
    with pytest.raises(UserError, match=r"eval\.txt, line 2"):
        report.read_run(run)


def test_odd_names_keep_the_table_whole(tmp_path, capsys):
    report.main([write_run(tmp_path / "run", line("a\nb"), line(model="a|b"))])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and any("| a b " in row for row in rows) and any("a\\|bx4" in row.lower() for row in rows)


def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    without_figures = write_run(tmp_path / "demo", line("Demo", None, None))
    for run, words in (("nowhere", "no such run folder"), ("empty", "--test_only"), (without_figures, "no PSNR")):
        assert run_main(lambda run=run: report.main([str(tmp_path / run)])) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and words in error


def test_self_ensemble_is_another_network(tmp_path, capsys):
    run = write_run(tmp_path / "run", line(psnr=30.0), line(psnr=31.0, self_ensemble=True))
    report.main([run])
    rows = cells(capsys.readouterr().out)[2:]
    assert [row[0] for row in rows] == ["EDSRx4", "EDSR+x4"]
    assert [row[3].split("/")[0] for row in rows] == ["30.00", "31.00"] and rows[1][4] == "-"


def test_networks_that_are_not_published_are_told_by_their_flags_and_not_compared(tmp_path, capsys):
    variants = ({}, {"quantizer": "pams"}, {"n_feats": 8, "skip_bits": 8})
    runs = [write_run(tmp_path / str(i), line(variant=variant)) for i, variant in enumerate(variants)]
    report.main(runs)
    header, _, *rows = cells(capsys.readouterr().out)
    assert header[-1] == "Difference"  # no two rows look alike
    assert [(row[0], row[4]) for row in rows] == [
        ("EDSRx4", "31.85/0.889"), ("EDSRx4 (n_feats 8, skip_bits 8)", "-"), ("EDSRx4 (quantizer pams)", "-")]


def test_tests_in_half_precision_and_of_other_images_do_not_replace_others(tmp_path, capsys):
    run = write_run(tmp_path / "run", line(psnr=30.0), line(psnr=31.0, images=1), line(psnr=29.0, precision="half"))
    report.main([run])
    rows = cells(capsys.readouterr().out)[2:]
    assert [(row[3].split("/")[0], row[-1]) for row in rows] == [
        ("30.00", f"{run}, 5 images"), ("31.00", f"{run}, 1 images"), ("29.00", f"{run}, half")]


def test_a_run_says_in_what_its_network_is_not_the_published_one(launch, experiments):
    """TINY's sizes are in every line, those of a method that is not DDTB too; skip_bits as many as k_bits are none."""
    sizes = {"n_feats": 8, "n_resblocks": 1}
    for flags, more in (("--quantizer pams", {"quantizer": "pams"}), ("--skip_bits 4", {}), ("--skip_bits 8 --bounds "
                        "symmetric --init_bounds calibrated", {"bounds": "symmetric", "skip_bits": 8})):
        assert launch(f"--save run --epochs 2 {flags}", quantized=True) == 0
        assert launch("--save run --test_only --load run", quantized=True) == 0
        found = [json.loads(text)["variant"] for text in (experiments / "run" / "eval.txt").read_text().splitlines()]
        assert found == [sizes | more] * 2


def test_a_run_that_is_named_twice_is_told_once(tmp_path, capsys):
    run = write_run(tmp_path / "run", line())
    report.main([run, f"{run}/", str(tmp_path / "." / "run")])
    assert len(cells(capsys.readouterr().out)) == 3
