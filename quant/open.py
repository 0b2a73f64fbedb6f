"""From a path to a network: run folders, checkpoints, packed files and, given the flags, bare state dicts.

`open_network` is the one way; it checks all that a file says before it builds anything of it.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import model
from model.common import SuperResolver
from model.registry import find, scale_of
from model.settings import SETTINGS, contradictions, made_from, read_json
from model.weights import check_fits, is_safetensors, load_body, read_weights
from quant.config import QuantConfig, as_kept, quant_flags
from quant.deploy.packed import is_packed, unpack
from quant.phase import Phase, set_phase
from quant.released_keys import from_released, is_released
from quant.swap import is_quantized, quantize
from utility import UserError, check_file

log = logging.getLogger(__name__)

FULL_PRECISION = 32
BEST, LAST = "model/model_best.pth.tar", "model/checkpoint.pth.tar"
ONNX_START = b"\x08"  # protobuf's field 1, ir_version: no checkpoint begins so


@dataclass(frozen=True)
class Source:
    """What a file says of its network: registry's name, constructor's settings, how it is quantized (or None).

    path: the file itself, also where a run's folder was opened. kind: what the file is, in words.
    """

    path: Path
    kind: str
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
    settings = {name for record in model.NETWORKS.values() for name in record.settings}
    return tuple(dict.fromkeys(("model", *SETTINGS, *sorted(settings), *quant_flags())))


def open_network(path: str | Path, *, flag: str = "", defaults: Mapping[str, Any] | None = None,
                 **given: Any) -> SuperResolver:
    """The network in a run's folder or a file, on the CPU, in evaluation mode; `network.source` is its Source.

    given: model, scale, k_bits and the other flags of a network; a file that says them itself is compared with them, a
    bare state dict needs those that differ from the constructor's defaults. defaults: the same, for bare state dicts
    alone. flag: what named the path, for messages. A network of a packed file can be run, not trained. Raises
    UserError for a file that can't be used, or contradicts what was given.
    """
    if "model" in given:
        given["model"] = find(given["model"]).name
    if unknown := given.keys() - set(known_flags()):
        raise TypeError(f"open_network knows no {', '.join(sorted(unknown))}")
    opened = _Opened(path, flag, given, defaults or {})
    network = model.NETWORKS[opened.source.name](**opened.source.settings)
    if opened.source.quant is not None:
        quantize(network, opened.source.quant)
    opened.load(network)
    return network.eval()


def load_weights(network: SuperResolver, path: str | Path, flag: str, *, to_train: bool = False,
                 any_scale: bool = False) -> None:
    """Load a run's folder or a file into a network of the same settings; a quantized one takes the file's phase.

    any_scale: of another scale's network take all but the upsampler, which stays as it is. Raises UserError for a file
    that can't be used, or holds another network, or a packed one where it is `to_train`.
    """
    given = {"model": model.name_of(network), "k_bits": FULL_PRECISION, **network.settings}
    if is_quantized(network):
        given |= network.quant_config.trained()
    if any_scale:
        del given["scale"]
    opened = _Opened(path, flag, given, {}, of_any_scale=network if any_scale else None)
    if to_train and opened.fixed:
        raise UserError(f"{flag} {path}: a packed file can be tested, not trained; give its checkpoint")
    if opened.source.settings["scale"] != network.scale:
        log.info("%s: %s", opened.place, load_body(network, opened.state, path))
    else:
        opened.load(network)


def weights_file(path: str | Path, flag: str = "") -> Path:
    """The file itself, or that of a run's folder. Raises UserError where there is none."""
    if os.path.isdir(path):  # unlike Path.is_dir it raises nothing
        return trained_file(path)
    check_file(path, flag)
    return Path(path)


def trained_file(folder: str | Path) -> Path:
    """The best network of a run, else its last checkpoint, which the log then says. Raises UserError without either."""
    found = best_or_last(folder)
    if found is None:
        raise UserError(f"{folder}: no {BEST} or {LAST} in it; train first, or give weights with --refine")
    if found.match(LAST):
        log.info("%s: no best network yet, the last checkpoint is used", folder)
    return found


def best_or_last(folder: str | Path) -> Path | None:
    """The best network of a run, else its last checkpoint; None without either."""
    return next((path for path in (Path(folder) / BEST, Path(folder) / LAST) if os.path.isfile(path)), None)


class _Opened:
    """A file that was read and found to fit the network that it, or else the flags, describe."""

    def __init__(self, path: str | Path, flag: str, given: Mapping[str, Any], defaults: Mapping[str, Any], *,
                 of_any_scale: SuperResolver | None = None) -> None:
        path = weights_file(path, flag)
        self.place = f"{flag} {path}".strip()
        _refuse_exported(path, self.place)
        self.weights = read_weights(path)
        if of_any_scale is not None:
            defaults = {**defaults, "scale": scale_of(of_any_scale, self.weights.state)}
        record, kind = self._record()
        if record is None:
            record, kind = self._bare_record(given, defaults)
        skeleton = model.skeleton(record["network"], f"{self.place}: its network record")
        quant, phase = self._quant(record)
        self.source = Source(path, kind, model.name_of(skeleton), skeleton.settings, quant, phase)
        self._compare(given)
        if quant is not None:
            with torch.device("meta"):
                quantize(skeleton, quant)
        self.fixed: dict[str, Any] = {}
        self.state = from_released(self.weights.state) if is_released(self.weights.state) else self.weights.state
        if "packed" in record:
            self.state, self.fixed = unpack(skeleton, self.state, record["packed"], phase, self.place)
        check_fits(skeleton, self.state, self.place)

    def load(self, network: SuperResolver) -> None:
        """Fill a network of the source's kind, and say so in the log."""
        network.load_state_dict(dict(self.state))
        for name, scale in self.fixed.items():
            network.eval().get_submodule(name).requires_grad_(False).fixed_scale = scale
        precision = "full precision"
        if self.source.phase is not None:
            set_phase(network, self.source.phase)
            precision = f"quantized, phase {self.source.phase.value}"
        network.source = self.source
        log.info("%s: %s, %s", self.place, self.source.kind, precision)

    def _record(self):
        """({"network", "quant", "phase", ...}, what the file is) of a file of ours; (None, None) of another."""
        if self.weights.checkpoint is not None:
            return {"network": None, **self.weights.checkpoint}, self.weights.kind
        if not is_packed(self.weights.metadata):
            return None, None
        parts = ("network", "quant", "phase", "packed", "source")
        record = {name: read_json(self.weights.metadata[name], f"{self.place}: its {name}") if name in
                  self.weights.metadata else None for name in parts}
        made_of = record["source"].get("file") if isinstance(record["source"], dict) else None
        return record, f"a packed file made of {made_of!r:.80}" if made_of else "a packed file"

    def _bare_record(self, given, defaults):
        """The same for a file that says nothing of itself but its tensors, by the flags."""
        state, flags = self.weights.state, {**defaults, **given}
        if "model" not in flags or "scale" not in flags:
            raise UserError(f"{self.place}: does not say which network it is; add --model, --scale and --k_bits")
        network = model.NETWORKS[flags["model"]]
        settings = {name: flags[name] for name in network.settings if name in flags}
        if (made_for := network.kind.rgb_range_of(state)) is not None:
            asked = given.get("rgb_range", made_for)
            if abs(asked - made_for) > 0.02 * made_for:
                raise UserError(f"{self.place}: was trained for --rgb_range {made_for:g}, as its mean colour tells "
                                f"(asked for: {asked}); leave out the flags that it knows, or give another file")
            settings["rgb_range"] = asked
        record = {"network": {"name": flags["model"], **settings}, "quant": None, "phase": None}
        kind = "the release's DDTB checkpoint" if is_released(state) else self.weights.kind
        if not _holds_quantizers(state):
            return record, kind
        if given.get("k_bits") == FULL_PRECISION:
            self._refuse_quantized("")
        if flags.get("k_bits", FULL_PRECISION) == FULL_PRECISION:
            raise UserError(f"{self.place}: is quantized and does not say how; add --k_bits")
        # released files count as finished: their gates are applied
        return {**record, "quant": {name: flags[name] for name in quant_flags() if name in flags},
                "phase": Phase.DYNAMIC.value}, kind

    def _quant(self, record):
        """(QuantConfig, Phase), or (None, None) in full precision."""
        if record.get("quant") is None:
            if "packed" in record or _holds_quantizers(self.weights.state):
                raise UserError(f"{self.place}: is quantized, and its quant record is missing; give a whole file")
            return None, None
        quant = made_from(record["quant"], QuantConfig, f"{self.place}: its quant record")
        phases = [phase for phase in Phase if isinstance(record.get("phase"), str) and phase.value == record["phase"]]
        if not phases:
            raise UserError(f"{self.place}: its phase is none ({record.get('phase')!r:.40}); give a whole file")
        if phases[0] is Phase.CALIBRATE:
            raise UserError(f"{self.place}: was saved while calibrating, nothing is quantized yet; train it further "
                            "with --load")
        return quant, phases[0]

    def _compare(self, given):
        """Raise UserError, naming both values, for a flag that contradicts the file."""
        k_bits = given.get("k_bits", self.source.k_bits)
        if k_bits == FULL_PRECISION and self.source.quant is not None:
            self._refuse_quantized(f" at --k_bits {self.source.k_bits}")
        if k_bits != FULL_PRECISION and self.source.quant is None:
            raise UserError(f"{self.place}: is a full-precision network (asked for: --k_bits {k_bits}); quantized "
                            "training takes it with --pre_train")
        found = self.source.flags
        if self.source.quant is not None:
            given = as_kept(given, k_bits)
        if different := contradictions(found, given, self.place):
            raise UserError(f"{self.place}: was trained for {different}; leave out the flags that it knows, "
                            "or give another file")

    def _refuse_quantized(self, bits):
        raise UserError(f"{self.place}: is a quantized network{bits} (asked for: --k_bits {FULL_PRECISION}); give a "
                        "full-precision one here, and quantized ones to main_limitrange_incremental.py with --refine")


def _holds_quantizers(state):
    return is_released(state) or any(key.endswith((".max_val", ".alpha_upper")) for key in state)


def _refuse_exported(path, place):
    with open(path, "rb") as file:
        exported = file.read(1) == ONNX_START and not is_safetensors(path)
    if exported:
        raise UserError(f"{place}: is an exported network; test it with --backend onnx, or use python -m quant.upscale")
