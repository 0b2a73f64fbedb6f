"""What the tools (pack, export, verify, cost, inspect) share: the flags that say which network it is."""

import argparse
from typing import Any

from model.registry import NETWORKS, find, title
from model.settings import SETTINGS, number
from quant.methods import METHODS, method_settings
from quant.open import known_flags
from utility import FULL_PRECISION, UserError

EPILOG = "Run folders, checkpoints and packed files say themselves which network they hold; bare state dicts don't."


def network_parser(description: str) -> argparse.ArgumentParser:
    """A parser with training's flags of a network and its quantization; those that are not given are None."""
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG)
    group = parser.add_argument_group("network, for files that don't say it").add_argument
    group("--model", type=find, help=", ".join(map(title, NETWORKS)))
    group("--k_bits", type=int, help="bits of weights and features, 2 to 8; 32: full precision")
    for name, setting in SETTINGS.items():
        group(f"--{name}", type=setting.type if setting.type is not float else number, help=setting.help)
    group("--skip_bits", type=int, help="bits of the features that feed a sum, 2 to 8; 0: those of --k_bits")
    group("--quantizer", choices=tuple(METHODS), help="the method")
    for name, own in method_settings().items():
        group(f"--{name}", choices=own.values, help="as in training")
    return parser


def given_flags(options: argparse.Namespace) -> dict[str, Any]:
    """{flag: value} of the network's flags that were given. Raises UserError for a value that can't work."""
    given = {name: getattr(options, name) for name in known_flags() if getattr(options, name, None) is not None}
    for name, value in given.items():
        if name in SETTINGS and (problem := SETTINGS[name].problem(value)):
            raise UserError(f"--{name} {value}: {problem}")
    for name, more in (("k_bits", FULL_PRECISION), ("skip_bits", 0)):
        if given.get(name, more) not in (*range(2, 9), more):
            raise UserError(f"--{name} {given[name]}: choose 2 to 8, or {more}")
    return given
