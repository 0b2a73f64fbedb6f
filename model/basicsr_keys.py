"""Translate the state dicts of BasicSR's EDSR to our names.

BasicSR has other names for EDSR's layers, and keeps the mean colour outside of the state dict. Its img_range is our
rgb_range.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from model.common import MeanShift

FIRST, AFTER_BODY = "conv_first.weight", "conv_after_body."
_BLOCK = re.compile(r"body\.(\d+)\.conv([12])\.")
_PLACES = {"conv_first.": "head.0.", "upsample.": "tail.0.", "conv_last.": "tail.1."}


def is_basicsr(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has BasicSR's names for EDSR."""
    return {FIRST, "body.0.conv1.weight", f"{AFTER_BODY}weight", "conv_last.weight"} <= state.keys()


def from_basicsr(state: Mapping[str, Tensor], *, rgb_range: float) -> dict[str, Tensor]:
    """Our names for BasicSR's state dict, and the mean colours of rgb_range, which its files don't tell."""
    places = _PLACES | {AFTER_BODY: f"body.{1 + max(int(found[1]) for found in map(_BLOCK.match, state) if found)}."}
    ours = {}
    for key, value in state.items():
        key = _BLOCK.sub(lambda found: f"body.{found[1]}.body.{'0' if found[2] == '1' else '2'}.", key)
        for theirs, name in places.items():
            key = name + key.removeprefix(theirs) if key.startswith(theirs) else key
        ours[key] = value
    n_colors = 1 if state[FIRST].shape[1:2] == (1,) else 3
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        shift = MeanShift(rgb_range=rgb_range, n_colors=n_colors, sign=sign)
        ours |= {f"{name}.{key}": value for key, value in shift.state_dict().items()}
    return ours
