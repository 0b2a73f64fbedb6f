"""Load weight files of every known kind into networks, quantized or not; say what each file is."""

import logging

import model
from model.weights import check_network, load_strictly, read_weights
from quant.config import QuantConfig
from quant.deploy.packed import check_config, is_packed, load_packed, read_packed
from quant.phase import Phase, set_phase
from quant.released_keys import from_released, is_released
from quant.swap import quantize
from utility import UserError

log = logging.getLogger(__name__)


def holds_quantized(weights):
    """Whether a weight file is of a quantized network, ours or the release's."""
    return is_released(weights.state) or any(key.endswith(".max_val") for key in weights.state)


def load_full_precision(network, path, flag):
    """Load a full-precision file into `network`. Raises UserError when it does not fit or is a quantized one."""
    weights = None if is_packed(path) else read_weights(path)
    if weights is None or holds_quantized(weights):
        raise UserError(f"{flag} {path}: is a quantized network; give a full-precision one here, and quantized ones to "
                        "main_limitrange_incremental.py with --refine")
    check_network(weights, model.name_of(network), network.settings)
    load_strictly(network, weights.state, path)
    log.info("%s %s: %s, full precision", flag, path, weights.kind)


def load_quantized(network, path, flag):
    """Load a quantized file, ours, packed or the release's, into a quantized `network`; put it into the file's phase.

    Released files count as finished: their gates are applied. A network from a packed file can be run, not trained.
    Raises UserError when the file does not fit.
    """
    if is_packed(path):
        log.info("%s %s: %s", flag, path, load_packed(network, path, flag))
        return
    weights = read_weights(path)
    if not holds_quantized(weights):
        raise UserError(f"{flag} {path}: is a full-precision network; quantized training takes it with --pre_train")
    check_network(weights, model.name_of(network), network.settings)
    phase, state, kind = Phase.DYNAMIC, weights.state, weights.kind
    if is_released(state):
        state, kind = from_released(state), "the release's DDTB checkpoint"
    if weights.checkpoint is not None:
        check_config(path, weights.checkpoint["quant"], network)
        phase = Phase(weights.checkpoint["phase"])
    load_strictly(network, state, path)
    set_phase(network, phase)
    log.info("%s %s: %s, quantized, phase %s", flag, path, kind, phase.value)


def rebuild_quantized(path, *, flags=None):
    """The quantized network that a file holds, in evaluation mode: our checkpoints say which one it is.

    flags: {"name", "scale", "k_bits"} for files that don't. Raises UserError when nothing says it.
    """
    checkpoint = read_packed(path)[1] if is_packed(path) else read_weights(path).checkpoint
    if checkpoint is not None and checkpoint["quant"] is None:
        raise UserError(f"{path}: is a full-precision network; give a quantized one")
    if checkpoint is not None:
        settings, quant = dict(checkpoint["network"]), checkpoint["quant"]
    elif flags is not None:
        settings, quant = {"name": flags["name"], "scale": flags["scale"]}, {"k_bits": flags["k_bits"]}
    else:
        raise UserError(f"{path}: does not say which network it is; add --model, --scale and --k_bits")
    network = quantize(model.NETWORKS[settings.pop("name")](**settings), QuantConfig(**quant))
    load_quantized(network, path, "network")
    return network.eval()
