"""pretrained/models.json: the networks that are listed, their hashes, figures and the numbers that made them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from model.registry import title
from model.saved import file_hash
from utility import FULL_PRECISION, UserError, atomic_path

METHOD_NAMES = {"ddtb": "DDTB", "pams": "PAMS", "pact": "PACT", "dorefa": "DoReFa", "minmax": "min-max"}
VARIANTS = ("", "calibrated bounds", "calibrated bounds, sums in 8 bits")  # in the order of the tables


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
    def network(self):
        """As edsr_x4."""
        return f"{self.model}_x{self.scale}"

    @property
    def name(self):
        """The file's, without what follows the dot."""
        return self.file.partition(".")[0]

    @property
    def label(self):
        """What a row of the table calls it."""
        return ", ".join(filter(None, (method_title(self.k_bits, METHOD_NAMES[self.quantizer]), self.variant)))

    @property
    def quantizer(self):
        """A name in quant.methods.METHODS; DDTB's for full precision too."""
        return (self.recipe or {}).get("quantizer", "ddtb")

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
        """Its figures as `examples.results.scores` gives them."""
        return {name: tuple(values) for name, values in self.results.items()}

    @property
    def run(self):
        """Where its tests are kept, below the experiments' folder."""
        return test_run(self.file)

    @property
    def order(self):
        """What the list is sorted by: networks together, wide before narrow, DDTB's own before its variants."""
        place = VARIANTS.index(self.variant) if self.variant in VARIANTS else len(VARIANTS)
        return self.model, self.scale, -self.k_bits, self.quantizer != "ddtb", place, self.file

    def is_in(self, folder):
        """Whether the file is there, and the one that is listed."""
        path = folder / self.file
        return path.is_file() and file_hash(path) == self.sha256


def read_listed(folder):
    """The entries of <folder>/models.json. Raises UserError where it can't be read."""
    index = folder / "models.json"
    try:
        return [ListedNetwork(**entry) for entry in json.loads(index.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{index}: can't be read ({error}); --pretrained names the folder it is in") from None


def write_listed(folder, entries):
    """Write <folder>/models.json, in order."""
    rows = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.order)]
    for row in rows:
        if not row["again_from"]:
            del row["again_from"]
    with atomic_path(folder / "models.json") as path:
        path.write_text(json.dumps(rows, indent=1) + "\n")


def check_files(entries, folder):
    """Raise UserError for a shipped file that is missing or not the one listed."""
    for entry in (entry for entry in entries if entry.shipped):
        if not entry.is_in(folder):
            raise UserError(f"{folder / entry.file}: is missing or not what models.json lists; get it again from the "
                            "repository")


def test_run(file):
    """Where tests of a file of pretrained/ are kept, below the experiments' folder."""
    return f"results/{file.partition('.')[0]}"


def named_by(networks, only, *, other):
    """Those that `only`, of --only, names by their `network` or their `name`; all without it.

    other: what else than a `network` can be given, for the message of the UserError that other names raise.
    """
    names = {each: {each.network, each.name} for each in networks}
    if unknown := set(only) - set().union(*names.values()):
        known = ", ".join(sorted({each.network for each in networks}))
        raise UserError(f"--only {min(unknown)}: choose {known}, or {other}")
    return [each for each in networks if not only or names[each] & set(only)]


def test_command(network, path, sets, dir_data):
    """The command line that tests a file on these sets; network: what has its model, scale and k_bits."""
    full = network.k_bits == FULL_PRECISION
    return ["main_ori.py" if full else "main_limitrange_incremental.py", "--test_only", "--save_results",
            "--model", title(network.model), "--scale", str(network.scale),
            *([] if full else ["--k_bits", str(network.k_bits)]), "--refine", str(path),
            "--data_test", "+".join(sets), "--dir_data", str(dir_data), "--save", test_run(Path(path).name)]


def method_title(k_bits, name="DDTB"):
    """What the tables call a method at a width."""
    return "full precision" if k_bits == FULL_PRECISION else f"{name} {k_bits} bit"
