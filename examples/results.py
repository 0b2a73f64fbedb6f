"""The results table, made again: every shipped network tested on every set of a data root. `make results`.

    python -m examples.results --dir_data datasets [--only edsr_x4 srresnet_x4_2bit] [--data_test Set5+Set14]
        [--runs output/edsrx4/pams_2bit ...]

pretrained/models.json lists the shipped files with their hashes and the figures they were published with. Runs of your
own, as `--runs`, get a row each beside them, from the last test in their eval.txt.
"""

import argparse
import functools
import sys
from pathlib import Path

from data.image_sets import find_test_sets
from data.layout import BENCHMARKS
from examples import ROOT, run
from examples.listing import check_files, method_title, named_by, read_listed, test_command
from metrics.results import published_results, read_run
from model.registry import title
from utility import FULL_PRECISION, UserError, first_line, run_main

SETS = ("Set5", "Set14", "B100", "Urban100")
# dB and SSIM: threads and processors round sums, and so a quantizer's ties, differently (RDN x4, 4 bits: 0.018 dB)
AGREEMENT = 0.03, 0.001


def main(argv=None):
    """Test what is shipped, print the tables. Returns 1 when a figure is not the published one."""
    options = parse(argv)
    for name in options.runs:  # before hours of tests
        read_run(name)
    listed = read_listed(options.pretrained)
    entries = choose(listed, options.only)
    check_files(entries, options.pretrained)
    sets_at = functools.cache(lambda scale: available(options.dir_data, scale, options.data_test))
    measured = {}
    for place, entry in enumerate(entries, 1):
        sets = sets_at(entry.scale)
        print(f"\n{place} of {len(entries)}: {entry.file}")
        if code := run(test_command(entry, options.pretrained / entry.file, sets, options.dir_data)):
            return code
        measured[entry] = scores(entry.run, (entry.model, entry.scale), sets)
    networks = {(entry.model, entry.scale) for entry in entries}
    shown = [entry for entry in listed if (entry.model, entry.scale) in networks]
    for text in tables({entry: measured.get(entry, only_of(entry.published, options.data_test)) for entry in shown},
                       options.runs):
        print(f"\n{text}")
    for why, left in (("by --only", [entry.file for entry in shown if entry.shipped and entry not in measured]),
                      ("as the files do not come with the code", [entry.file for entry in shown if not entry.shipped])):
        if left:
            print(f"\nlisted figures, not measured now, {why}: {', '.join(left)}")
    differing = list(differences(measured))
    compared = sum(name in entry.results for entry, row in measured.items() for name in row)
    print("\n" + ("\n".join(differing) or f"{compared} pairs of PSNR and SSIM measured, each as published"))
    return 1 if differing else 0


def parse(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--dir_data", type=Path, default=Path("datasets"), help="data root (default: %(default)s)")
    parser.add_argument("--pretrained", type=Path, default=ROOT / "pretrained", help="folder of models.json")
    parser.add_argument("--only", nargs="+", default=[], metavar="NETWORK",
                        help="these alone, as edsr_x4_2bit, or edsr_x4 for all that is made of it")
    parser.add_argument("--data_test", default="+".join(SETS), help="the sets, joined by + (default: %(default)s)")
    parser.add_argument("--runs", nargs="*", default=[], help="runs of your own to list beside, tested before")
    options = parser.parse_args(argv)
    options.data_test = options.data_test.split("+")
    if unknown := set(options.data_test) - set(SETS):
        raise UserError(f"--data_test {min(unknown) or repr('')}: figures are listed for {'+'.join(SETS)}")
    return options


def choose(listed, only):
    """The shipped networks that `only` names, all without it; RDN, which takes most of the time, last."""
    shipped = sorted((entry for entry in listed if entry.shipped), key=lambda entry: entry.model == "rdn")
    return named_by(shipped, only, other="the name of a file that models.json lists, without what follows the dot")


def only_of(row, sets):
    """Of {set: scores} what these sets have."""
    return {name: value for name, value in row.items() if name in sets}


def available(dir_data, scale, sets=SETS):
    """Those of the sets that the data root has whole at this scale; says which it lacks. Raises UserError for none."""
    there = []
    for name in sets:
        try:
            [found] = find_test_sets(dir_data, [name], scale=scale, data_range="1-1/1-1")
        except UserError as error:
            print(f"lacking at x{scale}: {error}")
            continue
        if len(found.pairs) == BENCHMARKS[name]:
            there.append(name)
        else:
            print(f"lacking at x{scale}: {name} has {len(found.pairs)} of its {BENCHMARKS[name]} images")
    if not there:
        raise UserError(f"--dir_data {dir_data}: holds none of {', '.join(sets)} at x{scale}; see datasets/README.md")
    return there


def scores(run, network, sets=SETS):
    """{set: (PSNR, SSIM)} of a network, (model, scale), on whole sets of these: the run's own, else the last tested."""
    found = [result for result in read_run(run) if (result.model, result.scale) == network and result.set in sets
             and not result.lacking]
    found = [result for result in found if not result.file and not result.backend] or found
    alike = [result for result in found if _what(result) == _what(found[-1])]  # one network and runtime a row
    return {result.set: (result.psnr, result.ssim) for result in alike}


def _what(result):
    return result.k_bits, result.variant, result.file, result.backend


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
            lines.append(_row(f"paper: {method_title(bits)}", row, full, sets))
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
        for name, measured in row.items():
            if name not in entry.results:
                print(f"{entry.file}: nothing is published on {name}")
                continue
            for figure, unit, value, expected, allowed in zip(
                    ("PSNR", "SSIM"), (" dB", ""), measured, entry.results[name], AGREEMENT, strict=True):
                if abs(value - expected) > allowed:
                    yield f"{entry.file}: {figure} {value:.4f}{unit} on {name}, published {expected:.4f}"


if __name__ == "__main__":
    sys.exit(run_main(main))
