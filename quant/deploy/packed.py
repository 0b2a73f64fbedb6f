"""Packed files: a quantized network as it is deployed, weights as k-bit integers, in the safetensors format.

The tensors go by their names in the state dict. `<conv>.weight` of a quantized convolution is uint8, packed by
`bitpack`; metadata `packed` says {name: {shape, bits, offset}}, and the weight is (integer + offset) divided by
`<conv>.weight_scale`. A gate's weights, 2 bits, are likewise (integer + offset) times `<conv>.weight_step`; gates that
are never applied are not there. The other tensors are float32, or weights and biases float16. Metadata, all JSON:
`format`, `network` (name and settings), `quant`, `phase`, `rest`, `source` (file and SHA-256).
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import model
from model.weights import check_network
from quant.activation import quantizers
from quant.config import QuantConfig
from quant.deploy.bitpack import pack_bits, unpack_bits
from quant.deploy.fixed import FixedConv2d
from quant.gate import GATE_BITS
from quant.phase import Phase, set_phase
from quant.weight import WEIGHT_BOUNDS, QuantConv2d
from utility import UserError, atomic_path

FORMAT = "ddtb-packed-1"
SUFFIX = ".safetensors"
SCALE, STEP = "_scale", "_step"
UNUSED = ("max_val", "min_val", "num_batches_tracked")
STATISTICS = ("running_mean", "running_var")


def is_packed(path):
    """Whether a path names a packed file."""
    return Path(path).suffix == SUFFIX


def write_packed(network, path, *, phase, source, rest="fp32"):
    """Write a quantized network in evaluation mode to `path`; atomic. Returns the file's size in bytes.

    phase: the network's Phase. source: the checkpoint it came from, for its hash. rest: 'fp32' or 'fp16', how tensors
    that are not quantized are kept. Raises UserError where float16 can't hold one, or the file can't be written.
    """
    tensors, packed = {}, {}
    for name, levels, bits, factor in _quantized(network, phase):
        offset = int(levels.min())
        bits = max(bits, int(levels.max() - offset).bit_length())  # a tie at both bounds makes one level more
        packed[name] = {"shape": list(levels.shape), "bits": bits, "offset": offset}
        tensors[name] = torch.from_numpy(pack_bits(levels.numpy().astype(np.int64) - offset, bits))
        tensors |= {name + suffix: value.reshape(1).clone() for suffix, value in factor.items()}
    bounds = {f"{name}.{own}" for name, quantizer in quantizers(network).items()
              for own in quantizer.state_dict() if "." not in own}
    for name, tensor in _rest(network, phase, packed):
        exact = rest == "fp32" or name in bounds or name.endswith(STATISTICS)
        tensors[name] = tensor if exact else _rounded(name, tensor)
    metadata = {"format": FORMAT, "network": {"name": model.name_of(network), **network.settings},
                "quant": network.quant_config.to_dict(), "phase": phase.value,
                "rest": rest, "source": {"file": Path(source).name, "sha256": file_hash(source)}, "packed": packed}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {key: json.dumps(value) for key, value in metadata.items()})
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from error
    return Path(path).stat().st_size


def _quantized(network, phase):
    """(name, levels, bits, {suffix: scale or step}) of every quantized weight, those of applied gates included."""
    for name, module in network.named_modules():
        if isinstance(module, QuantConv2d):
            if module.weight_quantizer not in WEIGHT_BOUNDS:
                raise UserError(f"--quantizer {network.quant_config.quantizer}: its weights are not whole numbers of "
                                "one step; such a network can be trained and tested, not packed or exported")
            levels, scale = module.integer_weight()
            yield f"{name}.weight", levels, module.k_bits, {SCALE: scale}
    for name, quantizer in quantizers(network).items():
        if is_applied(quantizer, phase):
            for part in ("reduce", "expand"):
                weight = getattr(quantizer.gate, part).weight.detach()
                largest = weight.abs().max()
                # what quantize_symmetric makes of levels * largest is what it makes of the weight
                yield f"{name}.gate.{part}.weight", torch.round(weight / (largest + 1e-8)), GATE_BITS, {STEP: largest}


def is_applied(quantizer, phase):
    """Whether a quantizer's gate makes its bounds."""
    return quantizer.dynamic and phase is Phase.DYNAMIC


def _rest(network, phase, packed):
    idle = tuple(f"{name}.gate." for name, quantizer in quantizers(network).items() if not is_applied(quantizer, phase))
    for name, tensor in network.state_dict().items():
        if name not in packed and not name.startswith(idle) and name.rsplit(".", 1)[-1] not in UNUSED:
            yield name, tensor.detach().contiguous().clone()


def _rounded(name, tensor):
    """float16 for weights and biases; bounds and statistics, a few numbers each, are not asked for."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise UserError(f"--rest fp16: {name} reaches {tensor.abs().max():.3g}, beyond float16; use --rest fp32")
    return half


def file_hash(path):
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_packed(path):
    """(state dict, metadata) of a packed file; quantized weights are still packed. Raises UserError for another."""
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: is not a packed file that can be read ({str(error).splitlines()[0]})") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: is a safetensors file, not one that quant.pack made")
    return state, metadata


def load_packed(network, path, flag="--refine"):
    """Load a packed file into a quantized network, which can then be run, not trained; its phase is the file's.

    The network is the file's own settings at the file's bits. Raises UserError where it is not, or the file is broken.
    Returns what the file is, in words.
    """
    state, metadata = read_packed(path)
    check_network(_Described(path, metadata), model.name_of(network), network.settings)
    check_config(path, metadata["quant"], network)
    try:
        _fill(network.eval(), state, metadata["packed"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{flag} {path}: is damaged ({error!r:.100}); make it again with quant.pack") from error
    set_phase(network, Phase(metadata["phase"]))
    return f"a packed file made of {metadata['source']['file']}"


def check_config(path, found, network):
    """Raise UserError unless a file's QuantConfig, the dict `found`, is that of a quantized network."""
    found, wanted = QuantConfig(**found).trained(), network.quant_config.trained()
    for name in (name for name in {**found, **wanted} if found.get(name) != wanted.get(name)):
        raise UserError(f"{path}: was trained with --{name} {found.get(name)}; give that instead of {wanted.get(name)}")


class _Described:
    """What `check_network` wants to know of a file."""

    def __init__(self, path, metadata):
        self.path = path
        self.checkpoint = metadata


def _fill(network, state, packed):
    own = network.state_dict()
    for name, entry in packed.items():
        levels = unpack_bits(state.pop(name).numpy(), entry["bits"], entry["shape"]) + entry["offset"]
        levels = torch.from_numpy(levels).to(torch.float32)
        if f"{name}{STEP}" in state:
            state[name] = levels * state.pop(f"{name}{STEP}")
        else:
            parent, _, leaf = name.removesuffix(".weight").rpartition(".")
            conv = network.get_submodule(name.removesuffix(".weight"))
            setattr(network.get_submodule(parent), leaf, FixedConv2d(conv, levels, state.pop(f"{name}{SCALE}")))
    unknown = [name for name in state if name not in own]
    missing = [name for name in own if name not in state and name not in packed and not _may_lack(name)]
    if unknown or missing:
        raise KeyError(f"unknown: {unknown[:3]}, missing: {missing[:3]}")
    network.load_state_dict(state, strict=False)


def _may_lack(name):
    return ".gate." in name or name.rsplit(".", 1)[-1] in UNUSED
