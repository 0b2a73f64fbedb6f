"""The tables of pretrained/README.md, from models.json: `python -m examples.page`; `make networks` writes them too."""

import argparse
import sys
from pathlib import Path

from examples.demo import ROOT
from examples.results import read_shipped, tables
from utility import UserError, atomic_path, first_line, run_main

START, END = "<!-- {}: python -m examples.page -->\n", "\n<!-- /{} -->"


def main(argv=None):
    """Write the page and print its path. Raises UserError where models.json or the page can't be used."""
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--pretrained", type=Path, default=ROOT / "pretrained", help="folder of models.json")
    print(write_page(parser.parse_args(argv).pretrained))
    return 0


def write_page(folder):
    """Write the tables into <folder>/README.md; returns its path. Raises UserError where it lacks their marks."""
    page = folder / "README.md"
    try:
        text = page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page}: can't be read ({error}); --pretrained names the folder it is in") from None
    entries = read_shipped(folder)
    for name, content in (("files", _files(folder, entries)), ("results", results_tables(entries))):
        text = _replaced(text, name, content, page)
    with atomic_path(page) as path:
        path.write_text(text)
    return page


def results_tables(entries):
    """Markdown: a table for each network, of the figures that models.json lists."""
    return "\n\n".join(tables({entry: entry.published for entry in entries}))


def _files(folder, entries):
    rows = [f"| `{entry.file}` | {(folder / entry.file).stat().st_size / 1e6:.2f} | `{entry.sha256}` |"
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


if __name__ == "__main__":
    sys.exit(run_main(main))
