"""The figure of PSNR against bits."""

import json

from PIL import Image

from examples import bits_figure
from quant.deploy.packed import file_hash


def test_a_line_for_each_network_and_the_papers(tmp_path, capsys):
    (tmp_path / "models.json").write_text("[]")
    assert bits_figure.main(["--pretrained", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").width > 500
    own = {("edsr", 2, "Set5", bits): psnr for bits, psnr in ((32, 37.5), (2, 36.5))}
    panels = bits_figure.draw(own).axes
    lines = {line.get_label(): [*line.get_xdata()] for line in panels[0].get_lines()}
    assert lines["EDSR, here"] == [0, 3] and lines["EDSR, paper"] == [0, 1, 2] and "RDN, here" not in lines
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
    assert bits_figure.own_results(tmp_path) == {("edsr", 2, "Set5", 32): 38.0, ("edsr", 2, "Set5", 4): 37.0}
