"""Turn a full-precision network into its quantized form, in place."""

from typing import Any

from model.common import SuperResolver
from quant.activation import quantizers
from quant.blocks import BLOCKS, STAYS_FLOAT
from quant.config import QuantConfig
from quant.phase import Phased
from utility import UserError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def quantize(network: SuperResolver, config: QuantConfig) -> SuperResolver:
    """Replace every float block of the network by its quantized form. Returns the network.

    The Parameters are the same objects as before, the modules keep device, dtype and train/eval mode; modules outside
    the blocks (head, tail, any bare torch.nn.Conv2d) stay in full precision. `network.quant_config` becomes `config`.
    Copy a teacher before.
    Raises ValueError for a network that is quantized already, holds a block with no quantized form, one block in two
    places, hooks or a weight that is made of others, or holds nothing to quantize; UserError for skip_bits without
    skips; and leaves it as it was.
    """
    if not isinstance(config, QuantConfig):
        raise TypeError(f"config: give a QuantConfig, as QuantConfig(k_bits=4), not {config!r:.40}")
    if any(isinstance(module, SuperResolver) for module in network.modules() if module is not network):
        raise ValueError(f"{type(network).__name__} holds a SuperResolver; quantize that, then wrap it")
    if is_quantized(network):
        raise ValueError("the network is quantized already")
    _refuse_unknown(network)
    found = [(parent, name, block) for parent in network.modules() for name, block in parent._modules.items()
             if block is not None and type(block) in BLOCKS]
    if not found:
        raise ValueError(f"{type(network).__name__} holds no block to quantize")
    if len({block for _, _, block in found}) < len(found):
        raise ValueError("a block stands in two places, and each would need bounds of its own; copy it first")
    for _, name, block in found:
        if any(getattr(module, kind) for module in block.modules() for kind in HOOKS):
            raise ValueError(f"{name}: has hooks, which its quantized form would lose; add them after quantize")
    made = [_quantized(block, config) for _, _, block in found]  # all of them, before anything is changed
    widths = {one.k_bits for block in made for one in quantizers(block).values()}
    if config.skip_bits and config.skip_bits not in widths:
        raise UserError(f"--skip_bits {config.skip_bits}: the skips of {type(network).__name__} are not quantized; "
                        "leave the flag out")
    for (parent, name, _), block in zip(found, made, strict=True):
        setattr(parent, name, block)
    network.quant_config = config
    return network


def _quantized(block, config):
    reference = next(block.parameters())
    modes = {module: module.training for module in block.modules()}
    quantized = BLOCKS[type(block)](block, config).to(device=reference.device, dtype=reference.dtype)
    quantized.train(block.training)
    for module, mode in modes.items():  # what both forms share, as norms that are frozen
        module.training = mode
    return quantized


def _refuse_unknown(module):
    for name, child in module.named_children():
        kind = type(child)
        if kind in BLOCKS:
            continue
        if not kind.__module__.startswith("torch.nn.") and not issubclass(kind, (SuperResolver, *STAYS_FLOAT)):
            raise ValueError(f"{name}: no quantized form is registered for {kind.__name__}")
        _refuse_unknown(child)


def is_quantized(network: Any) -> bool:
    """Whether the network holds quantized modules."""
    return any(isinstance(module, Phased) for module in network.modules())
