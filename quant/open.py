"""From a path to a network: run folders, checkpoints, packed files and, given the flags, bare state dicts.

`open_network` is the one way; it checks all that a file says before it makes any tensor of it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import model
from model.basicsr_keys import from_basicsr, is_basicsr
from model.common import SuperResolver
from model.registry import find, scale_of, settings_of
from model.saved import file_at
from model.settings import SETTINGS, contradictions, made_from, read_json
from model.weights import check_fits, is_safetensors, load_body, read_weights
from quant.activation import with_gates, without_bounds
from quant.config import QuantConfig, as_kept, quant_flags
from quant.deploy.packed import is_packed, unpack
from quant.phase import Phase, set_phase
from quant.released_keys import from_released, is_released
from quant.swap import is_quantized, quantize
from quant.weight import QuantConv2d
from utility import FULL_PRECISION, UserError

log = logging.getLogger(__name__)

RGB_RANGE = SETTINGS["rgb_range"].default
FIXED_SCALE = ".fixed_scale"  # a buffer of quant.weight.QuantConv2d
USUAL_WIDTH = 64  # features of an EDSR that needs no --res_scale
ONNX_START = b"\x08"  # protobuf's field 1, ir_version: no checkpoint begins so


@dataclass(frozen=True)
class Source:
    """What a file says of its network: registry's name, constructor's settings, how it is quantized (or None).

    path: the file itself, also where a run's folder was opened. described: what the file is, in words.
    """

    path: Path
    described: str
    name: str
    settings: dict[str, Any]
    quant: QuantConfig | None = None
    phase: Phase | None = None

    @property
    def k_bits(self) -> int:
        return FULL_PRECISION if self.quant is None else self.quant.k_bits

    @property
    def flags(self) -> dict[str, Any]:
        """{flag: value} of everything that the file decides."""
        quant = {} if self.quant is None else self.quant.trained()
        return {"model": self.name, **self.settings, "k_bits": self.k_bits, **quant}


def known_flags() -> tuple[str, ...]:
    """The flags that say which network a file holds."""
    settings = {name for network in model.NETWORKS for name in settings_of(network)}
    return tuple(dict.fromkeys(("model", *SETTINGS, *sorted(settings), *quant_flags())))


def open_network(path: str | Path, *, flag: str = "", defaults: Mapping[str, Any] | None = None,
                 **given: Any) -> SuperResolver:
    """The network in a run's folder or a file, on the CPU, in evaluation mode; `network.source` is its Source.

    given: model, k_bits and the other flags of a network; a file that says them itself is compared with them, a bare
    state dict needs those that differ from the constructor's defaults; its shapes tell the scale. defaults: the same,
    for bare state dicts alone. flag: what named the path, for messages. A network of a packed file can be run, not
    trained; load_weights takes it into one that can. Raises UserError for a file that can't be used, or contradicts
    what was given; TypeError for another name.
    """
    network, _ = _opened(path, flag, given, defaults or {})
    if unset := without_bounds(network):
        raise UserError(f"{flag} {path}: {unset[0]} and others have no bounds yet; train it, as --refine".lstrip())
    return network


def load_weights(network: SuperResolver, path: str | Path, flag: str, *, any_scale: bool = False) -> dict[str, Any]:
    """Load a run's folder or a file into a network of the same settings, to train it; a quantized one takes its phase.

    any_scale: of another scale's network take all but the upsampler, which stays as it is. A packed file's weights
    become the values that its levels stand for. Returns all that a checkpoint holds, {} for other files. Raises
    UserError for a file that can't be used, holds another network, or is packed without gates that training needs.
    """
    given = {"model": model.name_of(network), "k_bits": FULL_PRECISION, **network.settings}
    if is_quantized(network):
        given |= network.quant_config.trained()
    if any_scale:
        del given["scale"]
    found, weights = _opened(path, flag, given, {"scale": network.scale})
    state = {name: tensor for name, tensor in found.state_dict().items() if not name.endswith(FIXED_SCALE)}
    if len(state) < len(found.state_dict()):
        if any(one.dynamic and not any(tensor.any() for tensor in one.gate.state_dict().values())
               for one in with_gates(found).values()):
            raise UserError(f"{flag} {path}: was packed before its gates were applied, and so without them; give its "
                            "checkpoint")
        log.info("%s %s: packed weights, trained on from the values of their levels", flag, path)
    if found.scale != network.scale:
        log.info("%s %s: %s", flag, path, load_body(network, state, path))
    else:
        network.load_state_dict(state)
        if found.source.phase is not None:
            set_phase(network, found.source.phase)
    return weights.checkpoint or {}


def _opened(path, flag, given, defaults):
    """(the network, the Weights that were read of its file)."""
    if "model" in given:
        given = {**given, "model": find(given["model"])}
    if unknown := given.keys() - set(known_flags()):
        raise TypeError(f"open_network knows no {', '.join(sorted(unknown))}")
    path = file_at(path, flag)
    place = f"{flag} {path}".strip()
    _refuse_exported(path, place)
    weights = read_weights(path)
    record, described = _own_record(weights, place) or _bare_record(weights, given, defaults, place)
    network = model.skeleton(record["network"], f"{place}: its network record")
    quant, phase = _quant_of(record, weights.state, place)
    network.source = source = Source(path, described, model.name_of(network), network.settings, quant, phase)
    _compare(source, given, place)
    if quant is not None:
        with torch.device("meta"):
            quantize(network, quant)
    state = from_released(weights.state) if is_released(weights.state) else weights.state
    state, fixed = unpack(network, state, record["packed"], phase, place) if "packed" in record else \
        _fixed_scales(network, state, place)
    check_fits(network, state, place)
    own = network.state_dict()
    # copies: a file's tensors can share memory, and strides other than the network's would choose other kernels
    network.load_state_dict({name: tensor.to(own[name].dtype, copy=True, memory_format=torch.contiguous_format)
                             for name, tensor in state.items()}, assign=True)
    for name, scale in fixed.items():
        network.eval().get_submodule(name).requires_grad_(False).fixed_scale = scale
    if phase is not None:
        set_phase(network, phase)
    log.info("%s: %s, %s", place, described, f"quantized, phase {phase.value}" if phase else "full precision")
    return network.eval(), weights


def _fixed_scales(network, state, place):
    """(the other tensors, {convolution: scale of its packed weight}) of a packed network's own state dict."""
    fixed = {name.removesuffix(FIXED_SCALE): tensor for name, tensor in state.items() if name.endswith(FIXED_SCALE)}
    convs = {name for name, module in network.named_modules() if isinstance(module, QuantConv2d)}
    if not fixed.keys() <= convs or not all(scale.dtype is torch.float32 and scale.shape == (1,) and scale > 0
                                            for scale in fixed.values()):
        raise UserError(f"{place}: the scales of its packed weights can't be used; give a whole file")
    return {name: tensor for name, tensor in state.items() if not name.endswith(FIXED_SCALE)}, fixed


def _refuse_exported(path, place):
    with open(path, "rb") as file:
        exported = file.read(1) == ONNX_START and not is_safetensors(path)
    if exported:
        raise UserError(f"{place}: is an exported network; test it with --backend onnx, or use python -m quant.upscale")


def _own_record(weights, place):
    """({"network", "quant", "phase", ...}, what the file is) of a file of ours; None of another."""
    if weights.checkpoint is not None:
        return {"network": None, **weights.checkpoint}, weights.described
    if not is_packed(weights.metadata):
        return None
    record = {name: read_json(weights.metadata.get(name, "null"), f"{place}: its {name}")
              for name in ("network", "quant", "phase", "packed", "source")}
    made_of = record["source"].get("file") if isinstance(record["source"], dict) else None
    return record, f"a packed file made of {made_of!r:.80}" if made_of else "a packed file"


def _bare_record(weights, given, defaults, place):
    """The same for a file that says nothing of itself but its tensors, by the flags."""
    flags = {**defaults, **given}
    if is_basicsr(weights.state):
        weights.state = from_basicsr(weights.state, rgb_range=flags.get("rgb_range", RGB_RANGE))
    state, network = weights.state, {}
    if "model" in flags:
        settings = {name: flags[name] for name in settings_of(flags["model"]) if name in flags}
        network = {"name": flags["model"], **settings}
        if "scale" not in given:
            network["scale"] = scale_of(network, state, place) or defaults.get("scale")
    if network.get("scale") is None:
        lacking = "--scale and the sizes that are not the default" if network else "--model, --scale and --k_bits"
        raise UserError(f"{place}: does not say which network it is; add {lacking}")
    if (made_for := model.NETWORKS[flags["model"]].rgb_range_of(state)) is not None:
        asked = given.get("rgb_range", made_for)
        if abs(asked - made_for) > 0.02 * made_for:
            raise UserError(f"{place}: was trained for --rgb_range {made_for:g}, as its mean colour tells "
                            f"(asked for: {asked}); leave out the flags that it knows, or give another file")
        network["rgb_range"] = asked
    elif (taken := flags.get("rgb_range", RGB_RANGE)) != RGB_RANGE:
        log.warning("warning: %s: can't tell its --rgb_range; %g is taken, as given", place, taken)
    if network["name"] == "edsr" and network.get("n_feats", 0) > USUAL_WIDTH and "res_scale" not in given:
        log.warning("warning: %s: can't tell its --res_scale; 1 is taken, EDSR's of 32 blocks has 0.1", place)
    record = {"network": network, "quant": None, "phase": None}
    described = "the release's DDTB checkpoint" if is_released(state) else weights.described
    if not _holds_quantizers(state):
        return record, described
    if given.get("k_bits") == FULL_PRECISION:
        raise _not_full_precision(place)
    if flags.get("k_bits", FULL_PRECISION) == FULL_PRECISION:
        raise UserError(f"{place}: is quantized and does not say how; add --k_bits")
    # released files count as finished: their gates are applied
    return {**record, "quant": {name: flags[name] for name in quant_flags() if name in flags},
            "phase": Phase.DYNAMIC.value}, described


def _quant_of(record, state, place):
    """(QuantConfig, Phase), or (None, None) in full precision."""
    if record.get("quant") is None:
        if "packed" in record or _holds_quantizers(state):
            raise UserError(f"{place}: is quantized, and its quant record is missing; give a whole file")
        return None, None
    quant = made_from(record["quant"], QuantConfig, f"{place}: its quant record")
    try:
        phase = Phase(record.get("phase"))
    except ValueError:
        raise UserError(f"{place}: its phase is none ({record.get('phase')!r:.40}); give a whole file") from None
    if phase is Phase.CALIBRATE:
        raise UserError(f"{place}: was saved while calibrating, nothing is quantized yet; train it further with --load")
    return quant, phase


def _holds_quantizers(state):
    return is_released(state) or any(key.endswith((".max_val", ".alpha_upper")) for key in state)


def _compare(source, given, place):
    """Raise UserError, naming both values, for a flag that contradicts the file."""
    k_bits = given.get("k_bits", source.k_bits)
    if k_bits == FULL_PRECISION and source.quant is not None:
        raise _not_full_precision(place, f" at --k_bits {source.k_bits}")
    if k_bits != FULL_PRECISION and source.quant is None:
        raise UserError(f"{place}: is a full-precision network (asked for: --k_bits {k_bits}); quantized "
                        "training takes it with --pre_train")
    if different := contradictions(source.flags, as_kept(given, k_bits), place):
        raise UserError(f"{place}: was trained for {different}; leave out the flags that it knows, or give another "
                        "file")


def _not_full_precision(place, bits=""):
    return UserError(f"{place}: is a quantized network{bits} (asked for: --k_bits {FULL_PRECISION}); give a "
                     "full-precision one here, and quantized ones to main_limitrange_incremental.py with --refine")
