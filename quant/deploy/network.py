"""What the tools (pack, export, cost, inspect) share: the flags that say which network it is, and opening it."""

import argparse
from typing import Any

from model.registry import find
from model.settings import SETTINGS
from quant.methods import METHODS
from utility import UserError

EPILOG = "Run folders, checkpoints and packed files say themselves which network they hold; bare state dicts don't."


def network_parser(description: str) -> argparse.ArgumentParser:
    """A parser with training's flags of a network and its quantization; those that are not given are None."""
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG)
    group = parser.add_argument_group("network, for files that don't say it").add_argument
    group("--model", type=lambda text: find(text).name, help="EDSR, RDN or SRResNet")
    group("--k_bits", type=int, help="bits of weights and features, 2 to 8; 32: full precision")
    for name, setting in SETTINGS.items():
        group(f"--{name}", type=setting.kind if setting.kind is not float else _number, help=setting.help)
    group("--quantizer", choices=tuple(METHODS), help="as in training")
    group("--skip_bits", type=int, help="bits of the features that feed a sum, as in training")
    for name, values in _method_settings().items():
        group(f"--{name}", choices=values, help="as in training")
    return parser


def _method_settings():
    return {name: values for method in METHODS.values() for name, values in method.settings.items()}


def given_flags(options: argparse.Namespace) -> dict[str, Any]:
    """{flag: value} of the network's flags that were given. Raises UserError for a value that can't work."""
    names = ("model", "k_bits", *SETTINGS, "quantizer", "skip_bits", *_method_settings())
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    for name, value in given.items():
        if name in SETTINGS and (problem := SETTINGS[name].problem(value)):
            raise UserError(f"--{name} {value}: {problem}")
    if given.get("k_bits", 32) not in (*range(2, 9), 32):
        raise UserError(f"--k_bits {given['k_bits']}: choose 2 to 8, or 32 for full precision")
    return given


def _number(text):
    value = float(text)
    return int(value) if value.is_integer() else value
