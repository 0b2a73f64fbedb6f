"""What the tools (pack, export, cost, inspect) share: the flags that say which network it is, and opening it."""

import argparse
from typing import Any

import model
from model.common import SuperResolver
from model.settings import SETTINGS
from quant.blocks import CHOICES
from quant.open import open_network
from quant.phase import Phase
from utility import UserError

EPILOG = "Run folders, checkpoints and packed files say themselves which network they hold; bare state dicts don't."


def network_parser(description: str) -> argparse.ArgumentParser:
    """A parser with training's flags of a network and its quantization; those that are not given are None."""
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG)
    group = parser.add_argument_group("network, for files that don't say it").add_argument
    group("--model", type=_name, help="EDSR, RDN or SRResNet")
    group("--k_bits", type=int, help="bits of weights and features, 2 to 8; 32: full precision")
    for name, setting in SETTINGS.items():
        group(f"--{name}", type=setting.kind if setting.kind is not float else _number, help=setting.help)
    for name, values in CHOICES.items():
        group(f"--{name}", choices=values, help="as in training")
    return parser


def given_flags(options: argparse.Namespace) -> dict[str, Any]:
    """{flag: value} of the network's flags that were given. Raises UserError for a value that can't work."""
    names = ("model", "k_bits", *SETTINGS, *CHOICES)
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    for name, value in given.items():
        if name in SETTINGS and (problem := SETTINGS[name].problem(value)):
            raise UserError(f"--{name} {value}: {problem}")
    if given.get("k_bits", 32) not in (*range(2, 9), 32):
        raise UserError(f"--k_bits {given['k_bits']}: choose 2 to 8, or 32 for full precision")
    return given


def open_to_deploy(options: argparse.Namespace) -> SuperResolver:
    """The network of --refine in evaluation mode. Raises UserError for one that is not DDTB's or not trained yet."""
    network = open_network(options.refine, flag="--refine", **given_flags(options))
    quant = network.source.quant
    if quant is not None and quant.quantizer != "ddtb":
        raise UserError(f"--refine {options.refine}: was trained with --quantizer {quant.quantizer}, which is there "
                        "for comparison; ddtb networks are deployed")
    if network.source.phase is Phase.CALIBRATE:
        raise UserError(f"--refine {options.refine}: was saved while calibrating, nothing is quantized yet; train on")
    return network


def _name(text):
    try:
        return model.known_name(text)
    except ValueError as error:
        raise UserError(f"--model {error}") from error


def _number(text):
    value = float(text)
    return int(value) if value.is_integer() else value
