"""The settings that networks are built with: what each may be, and how a file's record of them is checked."""

import inspect
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from utility import UserError

log = logging.getLogger(__name__)

LARGEST = 2**63


@dataclass(frozen=True)
class Setting:
    """One setting, a flag of the same name: its type, default and help, and its values or the range it lies in.

    positive: above 0. read: makes the value of a flag's text where the type alone does not.
    """

    type: type
    default: Any
    help: str
    values: tuple = ()
    least: float = -math.inf
    most: float = math.inf
    odd: bool = False
    positive: bool = False
    read: Callable[[str], Any] | None = None

    def problem(self, value: Any) -> str:
        """What to give instead of `value`, in words; empty where it can work."""
        if self.values:
            return "" if value in self.values else f"choose one of {', '.join(map(str, self.values))}"
        if not is_of(value, self.type):
            return "give a whole number below 2**63" if self.type is int else "give a finite number"
        if self.type not in (int, float):
            return ""
        if self.positive and value <= 0:
            return "give a number above 0"
        if not self.least <= value <= self.most:
            return f"give {self.least} or more" if value < self.least else f"give {self.most} or less"
        return "give an odd number" if self.odd and value % 2 == 0 else ""


def number(text: str) -> float:
    """A flag's number; whole ones become int, as files and messages have them. Raises ValueError as float does."""
    value = float(text)
    return int(value) if value.is_integer() else value


# the largest are beyond what any machine trains; more would bring it down before anything can fail
SETTINGS = {
    "scale": Setting(int, 4, "magnification: 2, 3 or 4", values=(2, 3, 4)),
    "n_colors": Setting(int, 3, "colour channels: 3, or 1 for luma alone", values=(3, 1)),
    "rgb_range": Setting(float, 255, "largest pixel value inside the program", positive=True, read=number),
    "n_resblocks": Setting(int, 16, "residual blocks (EDSR, SRResNet)", least=1, most=1000),
    "n_feats": Setting(int, 64, "feature channels (EDSR, SRResNet)", least=1, most=2**14),
    "res_scale": Setting(float, 1.0, "factor on each residual (EDSR)", positive=True, read=number),
    "G0": Setting(int, 64, "feature channels (RDN)", least=1, most=2**14),
    "RDNkSize": Setting(int, 3, "kernel size (RDN)", least=1, most=99, odd=True),
    "RDNconfig": Setting(str, "B", "blocks, convolutions, growth (RDN)", values=("A", "B")),
}


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value that a file holds is of a type: int, float (whole numbers too), bool, str, list, dict."""
    if kind in (int, float):
        kinds = (int, float) if kind is float else int
        limit = math.inf if isinstance(value, float) else LARGEST
        return isinstance(value, kinds) and not isinstance(value, bool) and -limit < value < limit
    return isinstance(value, kind)


def made_from(record: Any, make: Callable, where: str) -> Any:
    """`make(**record)` for a record that a file holds: the one way from a file's metadata to anything built of it.

    record: {name: value}, not checked yet. Each name has to be a parameter of `make`, each value of the type of its
    annotation (else of its default), and no parameter may be missing. Raises UserError where that is not so, and for a
    ValueError or TypeError of `make`; it begins with `where`: the file, and which part of it.
    """
    signature = inspect.signature(make)
    rest = next((one for one in signature.parameters.values() if one.kind is one.VAR_KEYWORD), None)
    try:
        if not isinstance(record, dict):
            raise ValueError(f"{record!r:.40} is no record of names and values; give a whole file")
        signature.bind(**record)
        for name, value in record.items():
            parameter: Any = signature.parameters.get(name, rest)
            expected = parameter.annotation if parameter.annotation is not parameter.empty else type(parameter.default)
            if isinstance(expected, type) and expected is not type and not is_of(value, expected):
                raise ValueError(f"{name} {value!r:.40} is not of the type {expected.__name__}")
        return make(**record)
    except (TypeError, ValueError) as error:  # as constructors are documented to refuse values and names
        raise UserError(f"{where}: {str(error):.200}") from error


def contradictions(found: Mapping[str, Any], given: Mapping[str, Any], place: str) -> str:
    """What a file says otherwise than the flags that were given, in words; the log tells of those it has no use for.

    found, given: {flag: value}. place: the file.
    """
    idle = [f"--{name} {value}" for name, value in given.items() if name not in found]
    if idle:
        log.info("%s: %s has no effect on this network", place, ", ".join(idle))
    return ", ".join(f"--{name} {found[name]} (asked for: {value if str(value) != str(found[name]) else repr(value)})"
                     for name, value in given.items() if name in found and found[name] != value)


def read_json(text: str, where: str) -> Any:
    """The value that JSON text of a file holds. Raises UserError, beginning with `where`, for text that is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} can't be read ({str(error):.60}); give a whole file") from error
