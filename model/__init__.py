"""The registry of full-precision networks; quantization is applied to them from outside, by `quant`."""

import inspect
from typing import Any

import torch

from model.common import SuperResolver
from model.edsr import EDSR
from model.rdn import RDN
from model.settings import made_from
from model.srresnet import SRResNet
from utility import UserError

NETWORKS = {"edsr": EDSR, "rdn": RDN, "srresnet": SRResNet}
ALIASES = {"bnsrresnet": "srresnet"}


def build(options: Any) -> SuperResolver:
    """The network that the options describe, freshly initialised, on the CPU."""
    kind = NETWORKS[options.model]
    return kind(**{name: getattr(options, name) for name in inspect.signature(kind).parameters})


def name_of(network: SuperResolver) -> str:
    """The registry's name of a network."""
    return next(name for name, kind in NETWORKS.items() if isinstance(network, kind))


def known_name(text: str) -> str:
    """The registry's name for what people call a network, in any case. Raises ValueError for an unknown one."""
    name = ALIASES.get(text.lower(), text.lower())
    if name not in NETWORKS:
        raise ValueError(f"{text}: unknown; choose EDSR, RDN or SRResNet")
    return name


def skeleton(record: Any, where: str) -> SuperResolver:
    """The network that a file's record, {"name", settings...}, describes: names and shapes, no memory for its tensors.

    Settings that an older version did not write have their defaults. Raises UserError, beginning with `where`, for a
    record that does not describe a network of the registry.
    """
    name = record.get("name") if isinstance(record, dict) else None
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(f"{where}: names no network that this version knows ({name!r:.40}); choose another file")
    with torch.device("meta"):
        return made_from({key: value for key, value in record.items() if key != "name"}, NETWORKS[name], where)
