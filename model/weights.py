"""Read the state dict of any kind of file, recognised by its content, and load it strictly into a network."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.common import SuperResolver
from model.torch_file import read_torch_file
from utility import UserError, check_file, first_line

log = logging.getLogger(__name__)

FAMILY = "ddtb-checkpoint-"
FORMAT = FAMILY + "1"
# where trainers keep the weights, in the order of choice: BasicSR tests the moving average where there is one
KEYS = ("params_ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "params", "state_dict",
        "model_state_dict", "model", "net", "network", "generator", "net_g", "netG", "g", "G", "weights")
DEPTH = 4
WRAPPERS = ("module", "_orig_mod")  # DataParallel and torch.compile, which may wrap a part alone
COUNTERS = ("total_ops", "total_params", "n_averaged")  # thop's, and torch's AveragedModel's
KEYS_SHOWN = 8


@dataclass
class Weights:
    """A state dict, tensors on the CPU, from `path`; `described` says in words what the file is.

    checkpoint: the whole of one of our own training files, else None. metadata: the texts in a safetensors file.
    """

    path: Path
    described: str
    state: dict[str, torch.Tensor]
    checkpoint: dict | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: str | Path) -> Weights:
    """Read one of our checkpoints, a safetensors file, a state dict, or what holds one under a key of some trainer.

    Of foreign files the prefixes of wrappers (`module.`, `_orig_mod.`, any of KEYS) and counters are taken off. Raises
    UserError for anything else, and for values that are not finite.
    """
    path = Path(path)
    check_file(path)
    if is_safetensors(path):
        state, metadata = _read_safetensors(path)
        found = Weights(path, "a safetensors file", _plain(state, path), metadata=metadata)
    else:
        content = read_torch_file(path)
        found = _own(content, path) or _foreign(content, path)
    check_tensors(found.state, path)
    return found


def _own(content, path):
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, str) or not version.startswith(FAMILY):
        return None
    if version != FORMAT:
        raise UserError(f"{path}: was written by another version of this program ({version:.40}); use that one")
    if not _is_state(content.get("state_dict")):
        raise UserError(f"{path}: is an incomplete checkpoint of this program; give another one")
    return Weights(path, "a checkpoint of this program", content["state_dict"], content)


def _foreign(content, path):
    state, keys = _search(content, path, DEPTH)
    if state is None:
        raise UserError(f"{path}: holds no state dict, tensors by name; give a file of this program, of EDSR-PyTorch, "
                        "of BasicSR or of the release")
    described = f"a state dict under {'.'.join(keys)}" if keys else "a state dict"
    return Weights(path, described, _plain(state, path))


def _is_state(content):
    return isinstance(content, dict) and bool(content) and all(
        isinstance(key, str) and torch.is_tensor(value) for key, value in content.items())


def _search(content, path, depth):
    """(state dict, keys it lies under), or (None, None)."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content) or depth == 0:
        return None, None
    if _is_state(content):
        return content, []
    nested = {key: found for key, value in content.items() if (found := _search(value, path, depth - 1))[0] is not None}
    chosen = [key for key in KEYS if key in nested] or list(nested)
    if nested and chosen[0] not in KEYS and len(nested) > 1:
        raise UserError(f"{path}: holds several state dicts ({_listed(chosen)}); save the one that is meant alone")
    if nested:
        state, keys = nested[chosen[0]]
        return state, [chosen[0], *keys]
    tensors = {key: value for key, value in content.items() if torch.is_tensor(value)}
    if tensors:
        log.info("%s: left out what is no tensor: %s", path, _listed([key for key in content if key not in tensors]))
    return (tensors, []) if tensors else (None, None)


def _plain(state, path):
    """The state dict by the names of the network itself: without wrappers' prefixes and without counters."""
    counters = [key for key in state if key.rpartition(".")[2] in COUNTERS]
    if counters:
        log.info("%s: left out %d counters of operations, parameters or averages (%s)", path, len(counters),
                 _listed(counters))
    names = {key: _without_wrappers(key) for key in state if key not in counters}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(f"{path}: holds {_listed(twice)} more than once, with and without a wrapper's prefix; save the "
                        "network's own state dict")
    return {name: state[key] for key, name in names.items()}


def _without_wrappers(key):
    parts = [part for part in key.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] in KEYS:  # Lightning and the like keep the network as an attribute
        del parts[0]
    return ".".join(parts)


def check_tensors(state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Raise UserError for tensors that are no plain array of numbers in memory, and for NaN and infinity."""
    odd = [name for name, tensor in state.items() if not _is_plain(tensor)]
    if odd:
        raise UserError(f"{path}: {_listed(odd)}: no plain tensor of real numbers (sparse, quantized, complex, "
                        "or without its data); save the state dict of plain ones")
    broken = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if broken:
        raise UserError(f"{path}: is spoilt, {len(broken)} not finite: {_listed(broken)}; give another file")


def _is_plain(tensor):
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and not (
        tensor.is_quantized or tensor.is_complex() or tensor.is_nested)


def _is_finite(tensor):
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor if tensor.itemsize > 1 else tensor.float()).all())


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as the safetensors format does: the length of a JSON object, and that object."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError:  # the code that reads the whole file says why
        return False
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def _read_safetensors(path):
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"{path}: is a safetensors file; to read it, pip install -r requirements-deploy.txt") from error
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (OSError, SafetensorError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path}: is a safetensors file that is damaged or cut short ({first_line(str(error)):.100}); "
                        "get it again") from error


def check_fits(network: nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Raise UserError, listing the keys, unless `state` has the network's names, shapes and kinds of numbers.

    Files of PyTorch before 0.4.1 may lack the counters of batch normalisation.
    """
    own = network.state_dict()
    both = [key for key in own if key in state]
    problems = [
        ("missing", [key for key in own if key not in state and not key.endswith(".num_batches_tracked")]),
        ("unexpected", [key for key in state if key not in own]),
        ("of another shape", [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in both
                              if state[key].shape != own[key].shape]),
        ("of whole numbers", [key for key in both if own[key].is_floating_point() and state[key].numel() > 1
                              and not state[key].is_floating_point()]),
    ]
    differences = "; ".join(f"{len(keys)} {what}: {_listed(keys)}" for what, keys in problems if keys)
    if differences:
        raise UserError(f"{path}: does not fit this network ({differences})")


def load_strictly(network: nn.Module, state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load `state` into the network. Raises UserError as `check_fits` does, and for values that are not finite."""
    check_fits(network, state, path)
    check_tensors(state, path)
    network.load_state_dict(dict(state))


def load_body(network: SuperResolver, state: dict[str, torch.Tensor], path: str | Path) -> str:
    """Load all but the upsampler from a network of another scale; the upsampler stays as it is.

    Returns what was done, in words. Raises UserError where the rest does not fit.
    """
    upsampler = {name: tensor for name, tensor in network.state_dict().items() if network.in_upsampler(name)}
    taken = {name: tensor for name, tensor in state.items() if not network.in_upsampler(name)}
    load_strictly(network, {**taken, **upsampler}, path)
    return f"of another scale: {len(taken)} tensors of head and body are taken, the upsampler begins anew"


def _listed(keys: list[Any]) -> str:
    more = f", and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(map(str, keys[:KEYS_SHOWN])) + more
