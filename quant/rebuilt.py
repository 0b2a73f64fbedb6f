"""Whether a network's settings tell all of it: files keep these, and so give back what was never changed by hand."""

from typing import Any

import torch
from torch import nn

import model
from model.common import SuperResolver
from quant.swap import HOOKS, is_quantized, quantize
from utility import UserError

CHANGING = {"training", "dynamic", "bounds_set"}  # what files hold of a module besides tensors, or what means nothing
OF_PACKED_FILES = "fixed_scale"


def check_rebuilt(network: SuperResolver) -> None:
    """Raise UserError, naming the part, unless its settings and its QuantConfig make the same modules and tensor names.

    Compared are classes, numbers and texts of each module (padding, slopes, bits ...), hooks, and the tensors' shapes.
    """
    kind = model.NETWORKS.get(model.name_of(network))
    if type(network) is not kind:
        raise UserError(f"{type(network).__name__} is no registered network; model.registry.register it")
    with torch.device("meta"):
        rebuilt = kind(**network.settings)
        if is_quantized(network):
            quantize(rebuilt, network.quant_config)
    made = dict(rebuilt.named_modules())
    for name, module in network.named_modules():
        if name not in made or type(made[name]) is not type(module) or _constants(made[name]) != _constants(module):
            raise UserError(f"{name or kind.__name__} was changed by hand, which no setting of the network tells; a "
                            "file can't hold that")
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise UserError(f"{name or kind.__name__} has hooks, which a file can't hold; remove them")
    shapes, expected = _shapes(network), _shapes(rebuilt)
    if differing := [name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name)]:
        raise UserError(f"{differing[0]} was added, removed or given another shape by hand, which no setting of the "
                        "network tells; a file can't hold that")


def _constants(module: nn.Module) -> dict[str, Any]:
    """A module's numbers and texts but for what training changes."""
    return {name: value for name, value in vars(module).items()
            if isinstance(value, (int, float, str, tuple)) and name not in CHANGING}


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()
            if name.rpartition(".")[2] != OF_PACKED_FILES}
