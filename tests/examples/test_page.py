"""The tables of pretrained/README.md."""

import json

import pytest

from examples import page
from examples.demo import ROOT
from examples.results import read_shipped
from examples.stages import place
from quant.deploy.packed import file_hash
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
    entries = read_shipped(ROOT / "pretrained")
    assert page.results_tables(entries) in text
    assert all(f"| `{entry.file}` |" in text and f"| `{entry.sha256}` |" in text for entry in entries if entry.shipped)


def test_our_models_json_is_in_order():
    entries = json.loads((ROOT / "pretrained" / "models.json").read_text())
    assert sorted(entries, key=place) == entries


def test_what_is_between_the_marks_is_written_and_the_rest_stays(folder, capsys):
    assert page.main(["--pretrained", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    text = (folder / "README.md").read_text()
    assert "| `a.pt` | 0.12 |" in text and "b.pth.tar" not in text and "old" not in text
    assert "| full precision | 31.00/0.880 |\n| PAMS 2 bit | 29.00/0.830 (-2.00) |" in text
    assert text.startswith("# Networks\n") and "\nbetween\n" in text and text.endswith("\nafter")
    page.main(["--pretrained", str(folder)])
    assert (folder / "README.md").read_text() == text


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
