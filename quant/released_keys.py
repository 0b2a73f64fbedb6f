"""Translate state dicts from the names of the published release to ours.

The release keeps the gate as `atten_c.<index>`, numbers EDSR's second convolution 3 because act2 sits in the block's
Sequential (and is stored twice, there and as quant_act2), hangs RDN's last quantizer on the network, and stores a
quantizer for each block's first convolution that never runs.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

GATE = {"atten_c.1.": "gate.reduce.", "atten_c.2.": "gate.norm.", "atten_c.5.": "gate.expand."}
_QUANTIZER_LEAF = r"(?=alpha_|max_val|min_val|is_dynamic|atten_c\.|gate\.)"
_RELEASED_ONLY = re.compile(r"RDBs\.\d+\.convs\.0\.act\.")
_FIRST_ACT2 = re.compile(r"^(body\.\d+)\.quant_act2\.")
_FROM_RELEASED = [
    (re.compile(r"^(body\.\d+)\.quant_act(\d)\."), r"\1.act\2."),
    (re.compile(rf"^(body\.\d+)\.body\.2\.{_QUANTIZER_LEAF}"), r"\1.act2."),
    (re.compile(r"^(body\.\d+)\.body\.3\."), r"\1.body.2."),
    (re.compile(rf"^act\.{_QUANTIZER_LEAF}"), "GFF.act."),
]


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has the release's names for gates."""
    return any(".atten_c." in key or key.startswith("atten_c.") for key in state)


def from_released(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names for a released state dict; scalars become [1]; of two act2 entries the one in the body wins."""
    ours = {}
    for key, value in state.items():
        twin = _FIRST_ACT2.sub(r"\1.body.2.", key)
        if _RELEASED_ONLY.match(key) or twin != key and twin in state:
            continue
        for pattern, replacement in _FROM_RELEASED:
            key = pattern.sub(replacement, key)
        for theirs, name in GATE.items():
            key = key.replace(theirs, name)
        ours[key] = value.reshape(1) if key.endswith((".max_val", ".min_val", ".is_dynamic")) else value
        if key.endswith(".alpha_upper"):
            ours[key.replace(".alpha_upper", ".initialised")] = torch.ones(1, dtype=torch.bool)
    return ours
