"""Our state dicts by the names of the published release, as `quant.released_keys` reads them."""

import re

import torch

from quant.methods.ddtb import START_BOUND
from quant.released_keys import GATE

RENAMED = [
    (re.compile(r"^(body\.\d+)\.body\.2\."), r"\1.body.3."),
    (re.compile(r"^(body\.\d+)\.act(\d)\."), r"\1.quant_act\2."),
    (re.compile(r"^GFF\.act\."), "act."),
]


def to_released(state):
    """The release's names, doubles included, for our quantized state dict; what never runs gets start values."""
    released = {}
    for key, value in state.items():
        if key.endswith(".initialised"):
            continue
        for pattern, replacement in RENAMED:
            key = pattern.sub(replacement, key)
        for theirs, name in GATE.items():
            key = key.replace(name, theirs)
        released[key] = value
        if ".quant_act2." in key:
            released[key.replace(".quant_act2.", ".body.2.")] = value
        if re.match(r"RDBs\.\d+\.act1\.", key):
            released[key.replace(".act1.", ".convs.0.act.")] = _start_value(key, value)
    return released


def _start_value(key, value):
    if key.endswith(("alpha_upper", "alpha_lower")):
        return torch.full_like(value, START_BOUND if key.endswith("upper") else -START_BOUND)
    return torch.zeros_like(value)
