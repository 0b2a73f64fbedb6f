"""The results table from shipped networks: tested on tiny ones."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

import model
from examples import listing, results
from model.saved import file_hash
from utility import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shipped(tmp_path):
    """A folder with one tiny full-precision EDSR x2, its figures not yet known, and a function that lists it."""
    torch.manual_seed(0)
    network = model.NETWORKS["edsr"](scale=2, n_resblocks=16, n_feats=64)
    torch.save(network.state_dict(), tmp_path / "edsr_x2.pt")

    def listed(**changes):
        entry = {"file": "edsr_x2.pt", "model": "edsr", "scale": 2, "k_bits": 32,
                 "sha256": file_hash(tmp_path / "edsr_x2.pt"), "results": {}}
        (tmp_path / "models.json").write_text(json.dumps([{**entry, **changes}]))
        return tmp_path

    return listed


@pytest.fixture
def five(tiny_data, tmp_path, monkeypatch):
    """A data root whose only benchmark is called Set5, which has no more images."""
    monkeypatch.setitem(results.BENCHMARKS, "Set5", len(os.listdir(tiny_data / "benchmark" / "Tiny" / "HR")))
    (tmp_path / "data" / "benchmark").mkdir(parents=True)
    os.symlink(tiny_data / "benchmark" / "Tiny", tmp_path / "data" / "benchmark" / "Set5")
    return tmp_path / "data"


def test_tests_what_is_there_and_says_what_is_lacking(shipped, five, experiments, capfd):
    folder = shipped()
    assert results.main(["--dir_data", str(five), "--pretrained", str(folder)]) == 0
    told = capfd.readouterr().out
    assert all(f"lacking at x2: --data_test {name}" in told for name in ("Set14", "B100", "Urban100"))
    measured = results.scores("results/edsr_x2", ("edsr", 2))["Set5"]
    assert f"| full precision | {measured[0]:.2f}/{measured[1]:.3f} |" in told
    assert "nothing is published on Set5" in told


def test_only_tests_what_it_names_and_lists_the_rest_of_its_network(shipped, five, experiments, capfd):
    folder = shipped()
    [ours] = json.loads((folder / "models.json").read_text())
    (folder / "edsr_x2_b.pt").write_bytes((folder / "edsr_x2.pt").read_bytes())
    rest = [{**ours, "file": "edsr_x2_b.pt", "results": {"Set5": [20.0, 0.5], "Set14": [21.0, 0.6]}},
            {**ours, "file": "absent.pt", "scale": 4, "results": {"Set5": [19.0, 0.4]}}]
    (folder / "models.json").write_text(json.dumps([ours, *rest]))
    command = ["--dir_data", str(five), "--pretrained", str(folder), "--only", "edsr_x2", "--data_test", "Set5"]
    assert results.main([*command[:-3], "edsr_x2_b", *command[-2:]]) == 1  # figures that no test gives
    told = capfd.readouterr().out
    assert "1 of 1: edsr_x2_b.pt" in told and "lacking" not in told and "x4" not in told
    assert "listed figures, not measured now, by --only: edsr_x2.pt\n" in told
    assert "edsr_x2_b.pt: PSNR " in told and "on Set5, published 20.0000" in told
    assert results.main(command) == 1
    told = capfd.readouterr().out
    assert "2 of 2: edsr_x2_b.pt" in told and "by --only" not in told and "Set14" not in told


@pytest.mark.parametrize("flags, problem", [
    (["--only", "edsr_x3"], "--only edsr_x3: choose edsr_x2, or the name of a file"),
    (["--data_test", "Set5+Manga109"], r"--data_test Manga109: figures are listed for Set5\+Set14\+B100\+Urban100"),
    (["--data_test", "Set5+"], "--data_test '': figures are listed")])
def test_unknown_names_are_refused(shipped, five, flags, problem):
    with pytest.raises(UserError, match=problem):
        results.main(["--dir_data", str(five), "--pretrained", str(shipped()), *flags])


def test_networks_that_take_longest_come_last():
    entries = listing.read_listed(ROOT / "pretrained")
    models = [entry.model for entry in results.choose(entries, [])]
    assert models[-9:] == ["rdn"] * 9 and "rdn" not in models[:-9]
    assert {entry.file for entry in results.choose(entries, ["rdn_x2", "edsr_x4_2bit"])} == {
        "rdn_x2_4bit.safetensors", "rdn_x2_3bit.safetensors", "rdn_x2_2bit.safetensors", "edsr_x4_2bit.safetensors"}


def test_figures_that_differ_are_told(shipped, capsys):
    [entry] = listing.read_listed(shipped(results={"Set5": [30.0, 0.8]}))
    assert list(results.differences({entry: {"Set5": (30.029, 0.8009)}})) == []
    assert list(results.differences({entry: {"Set5": (30.031, 0.7989)}})) == [
        "edsr_x2.pt: PSNR 30.0310 dB on Set5, published 30.0000", "edsr_x2.pt: SSIM 0.7989 on Set5, published 0.8000"]


def test_a_set_that_lacks_images_is_none(five, monkeypatch, capsys):
    monkeypatch.setitem(results.BENCHMARKS, "Set5", 5)
    with pytest.raises(UserError, match="holds none of Set5"):
        results.available(five, 2)
    assert re.search("lacking at x2: Set5 has [1-4] of its 5 images", capsys.readouterr().out)


def test_what_does_not_come_with_the_code_is_listed_not_measured(shipped, five, experiments, capfd):
    folder = shipped()
    [ours] = json.loads((folder / "models.json").read_text())
    compared = {**ours, "file": "pams.pth.tar", "k_bits": 2, "shipped": False, "results": {"Set5": [29.0, 0.8]},
                "recipe": {"quantizer": "pams"}}
    (folder / "models.json").write_text(json.dumps([ours, compared]))
    assert results.main(["--dir_data", str(five), "--pretrained", str(folder)]) == 0
    told = capfd.readouterr().out
    assert "| PAMS 2 bit | 29.00/0.800" in told
    assert "listed figures, not measured now, as the files do not come with the code: pams.pth.tar\n" in told
    assert told.endswith("\n0 pairs of PSNR and SSIM measured, each as published\n")
    psnr_ssim = results.scores("results/edsr_x2", ("edsr", 2))["Set5"]
    shipped(results={"Set5": psnr_ssim})
    assert results.main(["--dir_data", str(five), "--pretrained", str(folder)]) == 0
    assert capfd.readouterr().out.endswith("\n1 pairs of PSNR and SSIM measured, each as published\n")


def test_what_is_shipped_is_what_is_listed():
    entries = listing.read_listed(ROOT / "pretrained")
    listing.check_files(entries, ROOT / "pretrained")
    for entry in (entry for entry in entries if entry.shipped):
        path = ROOT / "pretrained" / entry.file
        assert path.stat().st_size < 13e6


def test_a_changed_file_is_refused(shipped, five):
    with pytest.raises(UserError, match=r"edsr_x2\.pt: is missing or not what"):
        results.main(["--dir_data", str(five), "--pretrained", str(shipped(sha256="0" * 64))])


def test_figures_of_sets_that_are_not_there_now_are_not_taken(experiments):
    lines = [{"epoch": 0, "set": name, "model": "edsr", "scale": 2, "k_bits": 32, "psnr": 30.0, "ssim": 0.8,
              "images": 5, "seconds": 1.0} for name in ("Set5", "Urban100")]
    (experiments / "results" / "edsr_x2").mkdir(parents=True)
    (experiments / "results" / "edsr_x2" / "eval.txt").write_text("\n".join(map(json.dumps, lines)))
    assert results.scores("results/edsr_x2", ("edsr", 2), ["Set5"]) == {"Set5": (30.0, 0.8)}


def test_a_run_that_is_not_there_is_told_before_anything_is_tested(shipped, five, experiments):
    with pytest.raises(UserError, match="nowhere: no such run folder"):
        results.main(["--dir_data", str(five), "--pretrained", str(shipped()), "--runs", "nowhere"])
    assert not (experiments / "results").exists()


def test_a_root_without_sets_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds none of Set5"):
        results.available(tmp_path, 4)


def test_gaps_to_full_precision_are_those_of_the_printed_figures():
    full = listing.ListedNetwork("a.pt", "edsr", 4, 32, "", {})
    low = listing.ListedNetwork("b.safetensors", "edsr", 4, 2, "", {})
    other = listing.ListedNetwork("c.safetensors", "edsr", 4, 2, "", {}, variant="otherwise")
    shipped = {full: {"Set5": (31.304, 0.88)}, low: {"Set5": (30.106, 0.85)}, other: {"Set5": (30.3, 0.85)}}
    lines = results.table(("edsr", 4), shipped, {"pams": {"Set5": (29.0, 0.8)}}).splitlines()
    assert lines[2:] == ["| full precision | 31.30/0.880 |", "| DDTB 2 bit | 30.11/0.850 (-1.19) |",
                         "| DDTB 2 bit, otherwise | 30.30/0.850 (-1.00) |", "| pams | 29.00/0.800 (-2.30) |",
                         "| paper: full precision | 32.10/0.894 |",
                         "| paper: DDTB 2 bit | 30.97/0.876 (-1.13) |"]


def test_gaps_are_to_the_full_precision_that_stands_before():
    def entry(k_bits, variant=""):
        return listing.ListedNetwork("a", "srresnet", 4, k_bits, "", {}, variant=variant)

    rows = {entry(32, "earlier"): 31.0, entry(4): 30.9, entry(32): 32.0, entry(3): 31.5}
    lines = results.table(("srresnet", 4), {key: {"Set5": (psnr, 0.8)} for key, psnr in rows.items()}, {}).splitlines()
    assert lines[2:6] == ["| full precision, earlier | 31.00/0.800 |", "| DDTB 4 bit | 30.90/0.800 (-0.10) |",
                          "| full precision | 32.00/0.800 |", "| DDTB 3 bit | 31.50/0.800 (-0.50) |"]


def test_other_methods_and_seeds_stand_in_a_table_of_their_own_beside_ours_at_the_same_bits():
    def entry(k_bits, **settings):
        return listing.ListedNetwork("a", "edsr", 4, k_bits, "", {}, **settings)

    made_elsewhere = {"shipped": False, "recipe": {"quantizer": "pams"}}
    rows = {entry(32): 31.0, entry(4): 30.9, entry(3): 30.5, entry(2): 30.0,
            entry(2, recipe={"skip_bits": 8}, variant="sums in 8 bits"): 30.6, entry(2, **made_elsewhere): 29.0}
    main, other = results.tables({key: {"Set5": (psnr, 0.8)} for key, psnr in rows.items()})
    assert "PAMS" not in main and main.count("DDTB") == 7 and "| DDTB 2 bit, sums in 8 bits | 30.60" in main
    assert other.splitlines() == ["| EDSR x4, compared | Set5 |", "|---|---|", "| full precision | 31.00/0.800 |",
                                  "| DDTB 2 bit | 30.00/0.800 (-1.00) |", "| PAMS 2 bit | 29.00/0.800 (-2.00) |"]
    full = entry(32, shipped=False)  # too large to ship, and compared with nothing
    assert len([*results.tables({full: {"Set5": (31.0, 0.8)}})]) == 1


def test_a_row_is_of_one_network_and_of_whole_sets(experiments):
    folder = experiments / "two"
    folder.mkdir(parents=True)
    lines = [{"epoch": 0, "set": name, "model": "edsr", "scale": 4, "k_bits": bits, "psnr": psnr, "ssim": 0.9, "images":
              count, "file": file} for name, bits, psnr, count, file in (
        ("Set5", 32, 30.0, 5, "a.pt"), ("Set14", 2, 28.0, 14, "b.pt"), ("Set5", 2, 29.0, 2, "b.pt"))]
    (folder / "eval.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert results.scores("two", ("edsr", 4)) == {"Set14": (28.0, 0.9)}
