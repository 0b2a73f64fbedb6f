"""The networks by name. Whatever depends on which networks there are reads it here.

To add one: write its class (a `model.common.SuperResolver`) in a file of its own, `register` it there, and import the
file in quant/__init__.py. Its class is named as tables name the network; checkpoints have that name in lower case, the
command line takes any case. The parameters of its constructor are the flags that build it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from model.common import SuperResolver
from model.edsr import EDSR
from model.rdn import RDN
from model.settings import SETTINGS, made_from
from model.srresnet import SRResNet
from utility import UserError

# {name, the class's in lower case: class}
NETWORKS: dict[str, type[SuperResolver]] = {}
# {what the command line takes besides: name}
ALIASES = {"bnsrresnet": "srresnet"}


def register(kind: type[SuperResolver]) -> None:
    """Add a network. Raises ValueError where its name is taken."""
    name = kind.__name__.lower()
    if name in NETWORKS or name in ALIASES:
        raise ValueError(f"network {name}: is registered already")
    NETWORKS[name] = kind


register(EDSR)
register(RDN)
register(SRResNet)


def settings_of(name: str) -> tuple[str, ...]:
    """The parameters of a network's constructor, each a flag of the same name."""
    return tuple(inspect.signature(NETWORKS[name]).parameters)


def find(text: str) -> str:
    """The name that a name or an alias in any case stands for. Raises UserError, which lists the titles."""
    name = text.lower() if isinstance(text, str) else ""
    name = ALIASES.get(name, name)
    if name not in NETWORKS:
        *titles, last = map(title, NETWORKS)
        raise UserError(f"--model {text}: unknown; choose {', '.join(titles)} or {last}")
    return name


def title(name: str) -> str:
    """What tables call a network; an unknown name stands for itself."""
    return NETWORKS[name].__name__ if name in NETWORKS else name


def build(options: Any) -> SuperResolver:
    """The network that parsed options describe, freshly initialised, on the CPU.

    Raises TypeError for a class that does not keep all of its settings, as its files would make another network of it,
    or whose UPSAMPLER names no part of it.
    """
    network = NETWORKS[options.model](**{name: getattr(options, name) for name in settings_of(options.model)})
    if missing := set(settings_of(options.model)) - network.settings.keys():
        raise TypeError(f"{title(options.model)}: super().__init__ lacks {', '.join(sorted(missing))}")
    if unknown := set(network.UPSAMPLER) - dict(network.named_children()).keys():
        raise TypeError(f"{title(options.model)}: UPSAMPLER names {', '.join(sorted(unknown))}, which is no part of it")
    return network


def name_of(network: SuperResolver) -> str:
    """The registry's name of a network."""
    return type(network).__name__.lower()


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


def scale_of(record: dict[str, Any], state: Mapping[str, torch.Tensor], where: str) -> int | None:
    """The scale at which the network of a record has an upsampler of a state dict's shapes; None where none has them.

    record, where: as in `skeleton`; a scale in the record does not count.
    """
    for scale in SETTINGS["scale"].values:
        network = skeleton({**record, "scale": scale}, where)
        own, found = ({name: tensor.shape for name, tensor in tensors.items() if network.in_upsampler(name)}
                      for tensors in (network.state_dict(), state))
        if own and own == found:
            return scale
    return None
