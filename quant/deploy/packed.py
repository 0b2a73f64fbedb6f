"""Packed files: a quantized network as it is deployed, weights as k-bit integers, in the safetensors format.

The tensors go by their names in the state dict. `<conv>.weight` of a quantized convolution is uint8, packed by
`bitpack`; metadata `packed` says {name: {shape, bits, offset}}, and the weight is (integer + offset) divided by
`<conv>.weight_scale`. A gate's weights, 2 bits, are likewise (integer + offset) times `<conv>.weight_step`; gates that
are never applied are not there. The other tensors are float32, or weights and biases float16. Metadata, all JSON:
`format`, `network` (name and settings), `quant`, `phase`, `rest`, `source` (file and SHA-256).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import model
from model.common import SuperResolver
from model.saved import file_hash
from model.settings import made_from
from model.weights import check_tensors
from quant.activation import gates_in_use, quantizers, with_gates, without_bounds
from quant.deploy.bitpack import pack_bits, unpack_bits
from quant.methods.ddtb import GATE_BITS
from quant.phase import Phase, phase_of
from quant.rebuilt import check_rebuilt
from quant.swap import is_quantized
from quant.weight import WEIGHT_BOUNDS, QuantConv2d
from utility import UserError, atomic_path

FORMAT = "ddtb-packed-1"
RESTS = ("fp32", "fp16")
SUFFIX = ".safetensors"
SCALE, STEP = "_scale", "_step"
GATE_PARTS = ("reduce", "expand")
LARGEST_BITS = 16
TINY = torch.finfo(torch.float32).tiny
AGAIN = "make the file again with quant.pack"
UNUSED = ("max_val", "min_val", "num_batches_tracked", "fixed_scale")
STATISTICS = ("running_mean", "running_var")


def write_packed(network: SuperResolver, path: str | Path, *, source: str | Path, rest: str = "fp32") -> int:
    """Write a quantized network in evaluation mode to `path`; atomic. Returns the file's size in bytes.

    source: the checkpoint it came from, for its hash. rest: 'fp32' or 'fp16', how tensors
    that are not quantized are kept. Raises UserError where float16 can't hold one, for a network that is not quantized,
    calibrates, has no bounds yet or was changed in a way that its settings do not tell, for weights that no file holds,
    or where the file can't be written; ValueError for another `rest`.
    """
    try:
        from safetensors.torch import save_file  # an extra: only packing needs it
    except ImportError as error:
        raise UserError(f"{path}: to write it, pip install -r requirements-deploy.txt") from error
    if rest not in RESTS:
        raise ValueError(f"rest {rest!r}: choose {' or '.join(RESTS)}")
    if not is_quantized(network):
        raise UserError(f"{path}: the network is not quantized; only quantized ones are packed")
    check_rebuilt(network)
    if unset := without_bounds(network):
        raise UserError(f"{path}: {unset[0]} and others have no bounds yet; train the network first")
    if phase_of(network) is Phase.CALIBRATE:
        raise UserError(f"{path}: the network calibrates, nothing is quantized yet; train it on")
    tensors, packed = {}, {}
    for name, levels, bits, factor in _quantized(network):
        offset = int(levels.min())
        bits = max(bits, int(levels.max() - offset).bit_length())  # a tie at both bounds makes one level more
        packed[name] = asdict(_packed_as(name, levels.shape, bits, offset))
        tensors[name] = torch.from_numpy(pack_bits(levels.float().numpy().astype(np.int64) - offset, bits))
        tensors |= {name + suffix: value.reshape(1).clone() for suffix, value in factor.items()}
    bounds = {f"{name}.{own}" for name, quantizer in quantizers(network).items()
              for own in quantizer.state_dict() if "." not in own}
    for name, tensor in _rest(network, packed):
        exact = rest == "fp32" or name in bounds or name.endswith(STATISTICS)
        tensors[name] = tensor if exact else _rounded(name, tensor)
    metadata = {"format": FORMAT, "network": {"name": model.name_of(network), **network.settings},
                "quant": network.quant_config.to_dict(), "phase": phase_of(network).value,
                "rest": rest, "source": {"file": Path(source).name, "sha256": file_hash(source)}, "packed": packed}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {key: json.dumps(value) for key, value in metadata.items()})
    return Path(path).stat().st_size


def _packed_as(name, shape, bits, offset):
    try:
        return Packed(list(shape), bits, offset)
    except ValueError as error:
        raise UserError(f"{name}: {error}: nearly all its weights are the same; train it further") from None


def _quantized(network):
    """(name, levels, bits, {suffix: scale or step}) of every quantized weight, those of applied gates included."""
    for name, module in network.named_modules():
        if isinstance(module, QuantConv2d):
            if module.weight_quantizer not in WEIGHT_BOUNDS:
                raise UserError(f"--quantizer {network.quant_config.quantizer}: its weights are not whole numbers of "
                                "one step; such a network can be trained and tested, not packed or exported")
            levels, scale = module.integer_weight()
            yield f"{name}.weight", levels, module.k_bits, {SCALE: scale}
    for name, quantizer in gates_in_use(network).items():
        for part in GATE_PARTS:
            weight = getattr(quantizer.gate, part).weight.detach()
            largest = weight.abs().max()
            # what quantize_symmetric makes of levels * largest is what it makes of the weight
            yield f"{name}.gate.{part}.weight", torch.round(weight / (largest + 1e-8)), GATE_BITS, {STEP: largest}


def _rest(network, packed):
    idle = tuple(f"{name}.gate." for name, quantizer in quantizers(network).items() if not quantizer.gated)
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


def is_packed(metadata: dict[str, str]) -> bool:
    """Whether the texts in a safetensors file are a packed file's."""
    return metadata.get("format") == json.dumps(FORMAT)


@dataclass(frozen=True)
class Packed:
    """How one weight is packed: its shape, the bits of a level, and what its levels begin with. Raises ValueError."""

    shape: list
    bits: int
    offset: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= LARGEST_BITS or abs(self.offset) > 2**LARGEST_BITS:
            raise ValueError(f"{self.bits} bits from {self.offset} on are no levels of a quantized weight")


def unpack(skeleton: nn.Module, state: dict[str, torch.Tensor], record: Any, phase: Phase, where: str) \
        -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(state dict of floats, {name of a convolution: scale}) of a packed file.

    skeleton: the quantized network that the file describes. What packed files leave out, the state dict has from there.
    Raises UserError, beginning with `where`, for parts that don't fit each other or the network.
    """
    own = skeleton.state_dict()
    convs = {f"{name}.weight" for name, module in skeleton.named_modules() if isinstance(module, QuantConv2d)}
    idle, gates = [], set()
    for name in with_gates(skeleton):
        if phase is Phase.DYNAMIC and bool(state.get(f"{name}.is_dynamic", torch.zeros(1)).any()):
            gates |= {f"{name}.gate.{part}.weight" for part in GATE_PARTS}
        else:
            idle.append(f"{name}.gate.")
    if not isinstance(record, dict) or set(record) != convs | gates:
        raise UserError(f"{where}: its packed record does not list the quantized weights of its network; {AGAIN}")
    state, fixed = dict(state), {}
    for name, entry in record.items():
        entry = made_from(entry, Packed, f"{where}: packed {name}")
        packed, factor = state.pop(name, None), state.pop(name + (SCALE if name in convs else STEP), None)
        if packed is None or factor is None or packed.dtype is not torch.uint8 or \
                entry.shape != list(own[name].shape) or not _is_factor(factor, least=TINY if name in convs else 0):
            raise UserError(f"{where}: {name} has another shape, or no levels or no scale that can be used; {AGAIN}")
        try:
            levels = unpack_bits(packed.numpy(), entry.bits, entry.shape) + entry.offset
        except ValueError as error:
            raise UserError(f"{where}: {name}: {error}; {AGAIN}") from error
        levels, factor = torch.from_numpy(levels).to(torch.float32), factor.float()
        if name in convs:
            fixed[name.removesuffix(".weight")] = factor
        state[name] = levels / factor if name in convs else levels * factor
    unused = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in own.items()
              if name.startswith(tuple(idle)) or name.rpartition(".")[2] in UNUSED}
    check_tensors(state, where)
    return {**unused, **state}, fixed


def _is_factor(tensor, least):
    return tensor.shape == (1,) and tensor.is_floating_point() and tensor.item() >= least
