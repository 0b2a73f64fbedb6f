"""The tables and the figure of pretrained/README.md."""

import json

import pytest
from PIL import Image

from examples import ROOT, page
from examples.listing import read_listed
from model.saved import file_hash
from utility import UserError

EMPTY = "\n".join(("# Networks", "<!-- files: python -m examples.page -->", "", "<!-- /files -->", "between",
                   "<!-- results: python -m examples.page -->", "old", "<!-- /results -->", "after"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.pt").write_bytes(bytes(120_000))
    entry = {"file": "a.pt", "model": "edsr", "scale": 4, "k_bits": 32, "sha256": file_hash(tmp_path / "a.pt"),
             "results": {"Set5": [31.0, 0.88]}}
    compared = {**entry, "file": "b.pth.tar", "k_bits": 2, "shipped": False, "recipe": {"quantizer": "pams"},
                "results": {"Set5": [29.0, 0.83]}}
    (tmp_path / "models.json").write_text(json.dumps([entry, compared]))
    (tmp_path / "README.md").write_text(EMPTY)
    return tmp_path


def test_ours_is_what_models_json_says():
    text = (ROOT / "pretrained" / "README.md").read_text()
    entries = read_listed(ROOT / "pretrained")
    assert page.results_tables(entries) in text
    assert all(f"| `{entry.file}` |" in text and f"| `{entry.sha256}` |" in text for entry in entries if entry.shipped)


def test_our_models_json_is_in_order():
    entries = read_listed(ROOT / "pretrained")
    assert sorted(entries, key=lambda entry: entry.order) == entries


def test_what_is_between_the_marks_is_written_and_the_rest_stays(folder, capsys):
    assert page.main(["--pretrained", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    text = (folder / "README.md").read_text()
    assert "| `a.pt` | 0.12 |" in text and "b.pth.tar" not in text and "old" not in text
    assert "| full precision | 31.00/0.880 |\n| PAMS 2 bit | 29.00/0.830 (-2.00) |" in text
    assert text.startswith("# Networks\n") and "\nbetween\n" in text and text.endswith("\nafter")
    page.main(["--pretrained", str(folder)])
    assert (folder / "README.md").read_text() == text


def test_a_queue_writes_the_page_while_another_makes_a_file_again(folder):
    (folder / "a.pt").write_bytes(bytes(240_000))
    page.write_page(folder)
    assert "| `a.pt` | 0.24 |" in (folder / "README.md").read_text()
    with pytest.raises(UserError, match="a.pt: is missing or not what models.json lists"):
        page.main(["--pretrained", str(folder)])
    (folder / "a.pt").unlink()
    page.write_page(folder)
    assert "| `a.pt` | - |" in (folder / "README.md").read_text()


@pytest.mark.parametrize(("text", "message"), [
    (None, "README.md: can't be read"), ("", "README.md: has no lines <!-- files: python -m examples.page -->"),
    (EMPTY.replace("<!-- /results -->", ""), "and <!-- /results --> with a table between"),
])
def test_a_page_that_cannot_be_written_to_stays(folder, text, message):
    readme = folder / "README.md"
    readme.unlink() if text is None else readme.write_text(text)
    with pytest.raises(UserError, match=message):
        page.write_page(folder)
    assert text is None or readme.read_text() == text


def test_a_line_for_each_network_and_the_papers(folder, capsys):
    assert page.main(["--pretrained", str(folder), "--out", str(folder / "x.png")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(folder / "x.png"), str(folder / "README.md")]
    assert Image.open(folder / "x.png").width > 500
    own = {("edsr", 2, "Set5", bits): psnr for bits, psnr in ((32, 37.5), (2, 36.5))}
    panels = page.draw(own).axes
    lines = {line.get_label(): [*line.get_xdata()] for line in panels[0].get_lines()}
    assert lines["EDSR, here"] == [0, 3] and lines["EDSR, paper"] == [0, 1, 2] and "RDN, here" not in lines
    lines = {line.get_label(): [*line.get_xdata()] for line in panels[2].get_lines()}
    assert lines["EDSR, paper"] == [0, 1, 2, 3] and lines["RDN, paper"] == [0, 1, 2]
    assert [panel.get_title() for panel in panels] == ["Set5 x2", "Urban100 x2", "Set5 x4", "Urban100 x4"]


def test_networks_that_ship_and_are_ddtb_alone(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    entry = {"file": "x", "model": "edsr", "scale": 2, "sha256": file_hash(tmp_path / "x"), "shipped": True}
    changes = [{"k_bits": 32, "results": {"Set5": [38.0, 0.9]}, "shipped": False},
               {"k_bits": 4, "results": {"Set5": [37.0, 0.9]}, "variant": "calibrated bounds"},
               {"k_bits": 4, "results": {"Set5": [36.5, 0.9]}, "variant": "as published"},
               {"k_bits": 3, "results": {"Set5": [36.0, 0.9]}, "variant": "calibrated bounds, sums in 8 bits"},
               {"k_bits": 2, "results": {"Set5": [35.0, 0.9]}, "shipped": False}]
    (tmp_path / "models.json").write_text(json.dumps([{**entry, **change} for change in changes]))
    assert page.own_results(tmp_path) == {("edsr", 2, "Set5", 32): 38.0, ("edsr", 2, "Set5", 4): 37.0}
