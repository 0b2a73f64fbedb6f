"""Read weight files of every known kind, and load state dicts strictly with errors that a person can act on."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.run_folder import RunFolder
from utility import UserError, read_torch_file

log = logging.getLogger(__name__)

FORMAT = "ddtb-checkpoint-1"
KEYS_SHOWN = 8


@dataclass
class Weights:
    """A state dict from `path`; `kind` says in words what the file is.

    checkpoint: the whole of one of our own files, with `network` (name, settings), `quant` and the training state; else
    None.
    """

    path: Path
    kind: str
    state: dict
    checkpoint: dict | None = None


def read_weights(path):
    """Read one of our checkpoints, a state dict, or a dict that holds one as `state_dict` (the release, and others).

    The folder of a run stands for its best network, or its last where none was called the best. Prefixes of wrappers
    (`module.`, `model.`) are taken off. Raises UserError for anything else.
    """
    if Path(path).is_dir():
        path = trained_file(path)
    content = read_torch_file(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        _check_parts(content, path)
        return Weights(Path(path), "a checkpoint of this program", content["state_dict"], content)
    kind = "a state dict"
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content, kind = content["state_dict"], "a checkpoint with a state dict"
    if not _is_state_dict(content):
        raise UserError(f"{path}: holds no state dict; give a file of this program, of EDSR-PyTorch or of the release")
    return Weights(Path(path), kind, _without_prefix(content))


def _is_state_dict(content):
    return isinstance(content, dict) and bool(content) and all(map(torch.is_tensor, content.values()))


def _check_parts(checkpoint, path):
    """Raise UserError unless one of our checkpoints holds what its network is told by."""
    kinds = {"state_dict": dict, "network": dict, "quant": dict if checkpoint.get("quant") else type(None)}
    broken = [name for name, kind in kinds.items() if not isinstance(checkpoint.get(name, 0), kind)]
    if broken or not _is_state_dict(checkpoint["state_dict"]):
        raise UserError(f"{path}: is an incomplete checkpoint of this program; give another one")


def weights_to_test(options, folder, *, or_pre_train=False):
    """(file, flag) of what --test_only tests: --refine, else --resume, else the run that --load or --save names.

    or_pre_train: --pre_train counts too, as in EDSR-PyTorch. Raises UserError when there is nothing to test.
    """
    for flag in ("refine", "resume", *(["pre_train"] if or_pre_train else [])):
        if getattr(options, flag):
            return getattr(options, flag), f"--{flag}"
    return trained_file(folder.path), "--load" if options.load else "--save"


def trained_file(folder):
    """The best network of a run, else its last checkpoint, which the log then says. Raises UserError without either."""
    run = RunFolder(folder)
    if run.best.is_file():
        return run.best
    if run.checkpoint.is_file():
        log.info("%s: no best network yet, the last checkpoint is used", folder)
        return run.checkpoint
    raise UserError(f"{folder}: no model/model_best.pth.tar or engine/checkpoint.pth.tar in it; train first, or give "
                    "weights with --refine")


def _without_prefix(state):
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def check_network(weights, name, settings):
    """Raise UserError when one of our checkpoints was made for another network, scale or size."""
    if weights.checkpoint is None:
        return
    found = weights.checkpoint["network"]
    wanted = {"name": name, **settings}
    different = [f"{key} {found.get(key)} (asked for: {value})" for key, value in wanted.items()
                 if found.get(key) != value]
    if different:
        raise UserError(f"{weights.path}: was trained for {', '.join(different)}; give the flags of its training")


def load_strictly(network, state, path, *, hint=""):
    """Load `state` into the network; a key or shape that differs is a UserError that lists the keys, as is a NaN."""
    own = network.state_dict()
    problems = [
        ("missing", [key for key in own if key not in state]),
        ("unexpected", [key for key in state if key not in own]),
        ("of another shape", [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in own
                              if key in state and state[key].shape != own[key].shape]),
        ("not finite", [key for key in own if key in state and not torch.isfinite(state[key]).all()]),
    ]
    told = "; ".join(f"{len(keys)} {what}: {_listed(keys)}" for what, keys in problems if keys)
    if told:
        raise UserError(f"{path}: does not fit this network ({told}){hint}")
    network.load_state_dict(state)


def _listed(keys):
    more = f", and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more


def is_other_scale(network, state: dict) -> bool:
    """Whether a state dict is that of another scale of this network: the shapes of its upsampler differ."""
    def shapes(tensors):
        return {name: tensor.shape for name, tensor in tensors.items() if _in_upsampler(network, name)}

    return bool(shapes(state)) and shapes(state) != shapes(network.state_dict())


def load_other_scale(network, state: dict, path) -> str:
    """Load all but the upsampler from a network of another scale; the upsampler keeps what it was initialised with.

    Returns what was done, in words. Raises UserError where the rest does not fit.
    """
    fresh = {name: tensor for name, tensor in network.state_dict().items() if _in_upsampler(network, name)}
    taken = {name: tensor for name, tensor in state.items() if not _in_upsampler(network, name)}
    load_strictly(network, {**taken, **fresh}, path)
    return f"of another scale: {len(taken)} tensors of head and body are taken, the upsampler begins anew"


def _in_upsampler(network, name):
    return name.partition(".")[0] in network.UPSAMPLER
