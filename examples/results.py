"""The results table, made again: every shipped network tested on every set of a data root. `make results`.

    python -m examples.results --dir_data datasets [--runs output/edsrx4/pams_2bit ...]

pretrained/models.json lists the shipped files with their hashes and the figures they were published with. Runs of your
own, as `--runs`, get a row each beside them, from the last test in their eval.txt.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from data.image_sets import find_test_sets
from examples import ROOT
from examples.demo import run
from metrics.report import FULL_PRECISION, published_results, read_run
from model.registry import title
from quant.deploy.packed import file_hash
from utility import UserError, first_line, run_main

SETS = ("Set5", "Set14", "B100", "Urban100")
METHOD_NAMES = {"ddtb": "DDTB", "pams": "PAMS", "pact": "PACT", "dorefa": "DoReFa", "minmax": "min-max"}
# dB: threads and processors round sums, and so a quantizer's ties, differently (RDN x4 at 4 bits: by up to 0.018)
AGREEMENT = 0.03


@dataclass(frozen=True, eq=False)
class ListedNetwork:
    """A file in pretrained/ and its published figures, {set: [PSNR, SSIM]}.

    variant: how its training differs from the paper's. shipped: whether the file comes with the code; else its figures
    alone do. recipe: examples.budgets' numbers. again_from: SHA-256 of the quantized file whose weights full precision
    was made again from; its name alone would not tell one from a later one.
    """

    file: str
    model: str
    scale: int
    k_bits: int
    sha256: str
    results: dict
    variant: str = ""
    shipped: bool = True
    recipe: dict | None = None
    again_from: str = ""

    @property
    def label(self):
        """What a row of the table calls it."""
        name = METHOD_NAMES[(self.recipe or {}).get("quantizer", "ddtb")]
        return ", ".join(filter(None, (_method(self.k_bits, name), self.variant)))

    @property
    def skip_bits(self):
        """Bits of what is only added, 0 where they are k_bits."""
        return (self.recipe or {}).get("skip_bits", 0)

    @property
    def for_comparison(self):
        """Whether it is another method's, or made with another seed: not a network to use."""
        return not self.shipped and self.k_bits != FULL_PRECISION

    @property
    def published(self):
        """Its figures as `scores` gives them."""
        return {name: tuple(values) for name, values in self.results.items()}

    @property
    def run(self):
        """Where its tests are kept, below the experiments' folder."""
        return f"results/{Path(self.file).stem}"

    def command(self, sets, dir_data, pretrained):
        """The test's command line."""
        program = "main_ori.py" if self.k_bits == FULL_PRECISION else "main_limitrange_incremental.py"
        bits = [] if self.k_bits == FULL_PRECISION else ["--k_bits", str(self.k_bits)]
        if self.skip_bits:
            bits += ["--skip_bits", str(self.skip_bits)]
        return [program, "--test_only", "--save_results", "--model", title(self.model), "--scale",
                str(self.scale), *bits, "--refine", str(pretrained / self.file), "--data_test", "+".join(sets),
                "--dir_data", str(dir_data), "--save", self.run]


def main(argv=None):
    """Test what is shipped, print the tables. Returns 1 when a figure is not the published one."""
    options = parse(argv)
    for name in options.runs:  # before hours of tests
        read_run(name)
    rows = {}
    entries = read_listed(options.pretrained)
    check_files(entries, options.pretrained)
    for entry in entries:
        if not entry.shipped:
            rows[entry] = entry.published
            continue
        sets = available(options.dir_data, entry.scale)
        if code := run(entry.command(sets, options.dir_data, options.pretrained)):
            return code
        rows[entry] = scores(entry.run, (entry.model, entry.scale), sets)
    for text in tables(rows, options.runs):
        print(f"\n{text}")
    differing = list(differences(rows))
    print("\n" + ("\n".join(differing) or "every figure is the published one"))
    return 1 if differing else 0


def parse(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--dir_data", type=Path, default=Path("datasets"), help="data root (default: %(default)s)")
    parser.add_argument("--pretrained", type=Path, default=ROOT / "pretrained", help="folder of models.json")
    parser.add_argument("--runs", nargs="*", default=[], help="runs of your own to list beside, tested before")
    return parser.parse_args(argv)


def read_listed(folder):
    """The entries of <folder>/models.json. Raises UserError where it can't be read."""
    index = folder / "models.json"
    try:
        return [ListedNetwork(**entry) for entry in json.loads(index.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{index}: can't be read ({error}); --pretrained names the folder it is in") from None


def check_files(entries, folder):
    """Raise UserError for a shipped file that is missing or not the one listed."""
    for entry in (entry for entry in entries if entry.shipped):
        path = folder / entry.file
        if not path.is_file() or file_hash(path) != entry.sha256:
            raise UserError(f"{path}: is missing or not what models.json lists; get it again from the repository")


def available(dir_data, scale):
    """Those of SETS that the data root has at this scale; says which it lacks. Raises UserError when it has none."""
    there = []
    for name in SETS:
        try:
            find_test_sets(dir_data, [name], scale=scale, data_range="1-1/1-1")
            there.append(name)
        except UserError as error:
            print(f"lacking at x{scale}: {error}")
    if not there:
        raise UserError(f"--dir_data {dir_data}: holds none of {', '.join(SETS)} at x{scale}; see datasets/README.md")
    return there


def scores(run, network, sets=SETS):
    """{set: (PSNR, SSIM)} of a network, (model, scale), on these sets: the run's own, else the last tested there."""
    found = [result for result in read_run(run) if (result.model, result.scale) == network and result.set in sets]
    own = [result for result in found if not result.file and not result.backend]
    return {result.set: (result.psnr, result.ssim) for result in own or found}


def tables(rows, runs=()):
    """`table` for each network of {ListedNetwork: scores}, with the last tests of `runs` beside, then `comparison`s."""
    by_network = {}
    for entry, row in rows.items():
        by_network.setdefault((entry.model, entry.scale), {})[entry] = row
    for network, listed in sorted(by_network.items()):
        ours = {entry: row for entry, row in listed.items() if not entry.for_comparison}
        yield table(network, ours, {name: scores(name, network) for name in runs})
    for network, listed in sorted(by_network.items()):
        if any(entry.for_comparison for entry in listed):
            yield comparison(network, listed)


def table(network, listed, own):
    """Markdown: measured PSNR/SSIM and the gap to full precision, then the same as the paper has them.

    listed: {ListedNetwork: scores}, where a full-precision network stands before those that are made of it; own:
    {name: scores}, made of the last one.
    """
    sets, lines = _measured(f"{title(network[0])} x{network[1]}", listed, own)
    full = _published(*network, FULL_PRECISION)
    for bits in sorted({entry.k_bits for entry in listed}, reverse=True):
        if row := _published(*network, bits):
            lines.append(_row(f"paper: {_method(bits)}", row, full, sets))
    return "\n".join(lines)


def comparison(network, listed):
    """Markdown: of the widths that other methods or seeds were tested at, everything but finer sums."""
    widths = {FULL_PRECISION, *(entry.k_bits for entry in listed if entry.for_comparison)}
    rows = {entry: row for entry, row in listed.items() if entry.k_bits in widths and not entry.skip_bits}
    return "\n".join(_measured(f"{title(network[0])} x{network[1]}, compared", rows, {})[1])


def _measured(heading, listed, own):
    """The sets of a table, and its lines so far."""
    sets = [name for name in SETS if any(name in row for row in listed.values())]
    lines = [f"| {heading} | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    full = {}
    for entry, row in listed.items():
        full = row if entry.k_bits == FULL_PRECISION else full
        lines.append(_row(entry.label, row, full, sets))
    return sets, lines + [_row(name, row, full, sets) for name, row in own.items() if row]


def _method(k_bits, name="DDTB"):
    return "full precision" if k_bits == FULL_PRECISION else f"{name} {k_bits} bit"


def _published(model, scale, k_bits):
    """{set: (PSNR, SSIM)} of a network in the paper."""
    return {row.set: (row.psnr, row.ssim) for row in published_results().values()
            if (row.model, row.scale, row.k_bits) == (model, scale, k_bits) and row.set in SETS}


def _row(label, row, full, sets):
    return f"| {label} | " + " | ".join(_cell(row.get(name), full.get(name)) for name in sets) + " |"


def _cell(value, full):
    if value is None:
        return "-"
    gap = "" if full is None or value == full else f" ({round(value[0], 2) - round(full[0], 2):+.2f})"
    return f"{value[0]:.2f}/{value[1]:.3f}{gap}"


def differences(rows):
    """A sentence for every figure that is not the published one."""
    for entry, row in rows.items():
        for name, (psnr, _) in row.items():
            expected = entry.results.get(name, [math.nan])[0]
            if math.isnan(expected):
                print(f"{entry.file}: nothing is published on {name}")
            elif abs(psnr - expected) > AGREEMENT:
                yield f"{entry.file}: {psnr:.4f} dB on {name}, published {expected:.4f}"


if __name__ == "__main__":
    sys.exit(run_main(main))
