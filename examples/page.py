"""The tables of pretrained/README.md and its figure of PSNR against bits, from models.json.

    python -m examples.page                                    # the tables; `make networks` writes them too
    python -m examples.page --out examples/figures/bits.png    # and the figure
"""

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure

from examples import ROOT
from examples.listing import check_files, read_listed
from examples.results import tables
from metrics.figure import save_figure
from metrics.results import published_results
from model.registry import NETWORKS, title
from utility import FULL_PRECISION, MAKER, UserError, add_force, atomic_path, check_output, first_line, run_main

START, END = "<!-- {}: python -m examples.page -->\n", "\n<!-- /{} -->"
FIGURE_SETS = ("Set5", "Urban100")
WIDTHS = (2, 3, 4, FULL_PRECISION)
COLOURS = {"edsr": "#c2321f", "rdn": "#1f5fc2", "srresnet": "#2d8a3e"}
DRAWN = ("", "calibrated bounds")  # variants: full precision's, and the one of several that is drawn


def main(argv=None):
    """Write page and figure, print their paths. Raises UserError where models.json or the page can't be used."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--pretrained", type=Path, default=ROOT / "pretrained", help="folder of models.json")
    parser.add_argument("--out", type=Path, help="also draw PSNR against bits, into this picture")
    add_force(parser)
    options = parser.parse_args(argv)
    check_files(read_listed(options.pretrained), options.pretrained)
    if options.out:
        check_output(options.out, flag="--out", mark=MAKER.encode(), force=options.force)
        save_figure(draw(own_results(options.pretrained)), options.out, dpi=150)
        print(options.out)
    print(write_page(options.pretrained))
    return 0


def write_page(folder):
    """Write the tables into <folder>/README.md; returns its path. Raises UserError where it lacks their marks.

    Files need not be those listed: another queue may be testing one that it has made again.
    """
    page = folder / "README.md"
    try:
        text = page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page}: can't be read ({error}); --pretrained names the folder it is in") from None
    entries = read_listed(folder)
    for name, content in (("files", _files(folder, entries)), ("results", results_tables(entries))):
        text = _replaced(text, name, content, page)
    with atomic_path(page) as path:
        path.write_text(text)
    return page


def results_tables(entries):
    """Markdown: a table for each network, of the figures that models.json lists."""
    return "\n\n".join(tables({entry: entry.published for entry in entries}))


def _files(folder, entries):
    sizes = {path.name: f"{path.stat().st_size / 1e6:.2f}" for path in folder.iterdir()}
    rows = [f"| `{entry.file}` | {sizes.get(entry.file, '-')} | `{entry.sha256}` |"
            for entry in entries if entry.shipped]
    return "\n".join(("| file | MB | SHA-256 |", "|---|---|---|", *rows))


def _replaced(text, name, content, page):
    """The page with `content` between the marks of `name`."""
    start, end = START.format(name), END.format(name)
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{page}: has no lines {start.strip()} and {end.strip()} with a table between; put them back")
    return before + start + content + closed + after


def own_results(folder):
    """{(model, scale, set, bits): PSNR} of what is shipped, and of full precision where it is too large to be."""
    return {(entry.model, entry.scale, name, entry.k_bits): psnr for entry in read_listed(folder)
            if (entry.shipped or entry.k_bits == FULL_PRECISION) and entry.variant in DRAWN
            for name, (psnr, _) in entry.results.items()}


def draw(own):
    """A panel for each scale and set of FIGURE_SETS, a line for each network."""
    paper = {key: result.psnr for key, result in published_results().items()}
    figure = Figure(figsize=(8, 6), layout="constrained")
    for place, (scale, name) in enumerate(((scale, name) for scale in (2, 4) for name in FIGURE_SETS), start=1):
        axes = figure.add_subplot(2, 2, place, title=f"{name} x{scale}", ylabel="PSNR (dB)")
        for model in NETWORKS:
            for found, style, whose in ((own, "-o", "here"), (paper, "--", "paper")):
                points = [(x, found[model, scale, name, bits]) for x, bits in enumerate(WIDTHS)
                          if (model, scale, name, bits) in found]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=COLOURS.get(model), markersize=4, linewidth=1.2,
                              label=f"{title(model)}, {whose}")
        axes.set_xticks(range(len(WIDTHS)), ["2 bit", "3", "4", "full"])
        axes.grid(alpha=0.3)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    labels = sorted(lines)
    figure.legend([lines[label] for label in labels], labels, loc="outside lower center", ncols=len(NETWORKS),
                  fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(run_main(main))
