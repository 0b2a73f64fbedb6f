"""The networks by name: one record each. Whatever depends on which networks there are reads it here.

To add one: write its class (a `model.common.SuperResolver`) in a file of its own, `register` its record there, and
import the file in quant/__init__.py.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from model.common import SuperResolver
from model.edsr import EDSR
from model.rdn import RDN
from model.settings import SETTINGS, made_from
from model.srresnet import SRResNet
from utility import UserError


@dataclass(frozen=True)
class Network:
    """name: in checkpoints, and with `aliases` on the command line, in any case. title: in tables.

    The flags that build it are the parameters of its constructor. Calling the record makes the network.
    """

    name: str
    kind: type[SuperResolver]
    title: str
    aliases: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """The constructor's parameters, each a flag of the same name."""
        return tuple(inspect.signature(self.kind).parameters)

    def __call__(self, **settings: Any) -> SuperResolver:
        """The network, freshly initialised, on the CPU."""
        return self.kind(**settings)


NETWORKS: dict[str, Network] = {}


def register(record: Network) -> None:
    """Add a network. Raises ValueError where its name or an alias is taken."""
    names = {record.name, *record.aliases}
    taken = names & {name for other in NETWORKS.values() for name in (other.name, *other.aliases)}
    if taken:
        raise ValueError(f"network {', '.join(sorted(taken))}: is registered already")
    NETWORKS[record.name] = record


register(Network("edsr", EDSR, "EDSR"))
register(Network("rdn", RDN, "RDN"))
register(Network("srresnet", SRResNet, "SRResNet", aliases=("bnsrresnet",)))


def find(text: str) -> Network:
    """The record that a name or an alias in any case stands for. Raises UserError, which lists the titles."""
    for record in NETWORKS.values():
        if text.lower() in (record.name, *record.aliases):
            return record
    titles = [record.title for record in NETWORKS.values()]
    raise UserError(f"--model {text}: unknown; choose {', '.join(titles[:-1])} or {titles[-1]}")


def title(name: str) -> str:
    """What tables call a network; an unknown name stands for itself."""
    return NETWORKS[name].title if name in NETWORKS else name


def build(options: Any) -> SuperResolver:
    """The network that parsed options describe, freshly initialised, on the CPU."""
    record = NETWORKS[options.model]
    return record(**{name: getattr(options, name) for name in record.settings})


def name_of(network: SuperResolver) -> str:
    """The registry's name of a network."""
    return next(record.name for record in NETWORKS.values() if type(network) is record.kind)


def skeleton(record: Any, where: str) -> SuperResolver:
    """The network that a file's record, {"name", settings...}, describes: names and shapes, no memory for its tensors.

    Settings that an older version did not write have their defaults. Raises UserError, beginning with `where`, for a
    record that does not describe a network of the registry.
    """
    name = record.get("name") if isinstance(record, dict) else None
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(f"{where}: names no network that this version knows ({name!r:.40}); choose another file")
    with torch.device("meta"):
        return made_from({key: value for key, value in record.items() if key != "name"}, NETWORKS[name].kind, where)


def scale_of(network: SuperResolver, state: dict[str, torch.Tensor]) -> int:
    """The scale whose upsampler a state dict of such a network has, by its shapes; the network's where none fits."""
    def shapes(tensors):
        return {name: tensor.shape for name, tensor in tensors.items() if network.in_upsampler(name)}

    for scale in (network.scale, *SETTINGS["scale"].values):
        record = {"name": name_of(network), **network.settings, "scale": scale}
        if shapes(state) == shapes(skeleton(record, "").state_dict()):
            return scale
    return network.scale
