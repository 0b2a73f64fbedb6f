"""The quantizer's compiled kernels (quant/kernels/kernels.cpp) on torch tensors.

They serve float32 tensors on the CPU with the bits that quant/functional.py's own operations give, in one pass over
memory instead of many. Every function returns None where it does not serve: for other tensors, in compiled or traced
functions, without a compiler, and with DDTB_KERNELS=0 in the environment. The kernels are compiled when first needed.
"""

import functools
import logging
import os
from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor, nn

from quant.kernels.build import load
from utility import UserError

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
PLAIN = (Tensor, nn.Parameter)
FEATURE_AND_BOUNDS = (c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_int64, c_int, c_int)
SIGNATURES = {
    "ddtb_quantize": (None, (*FEATURE_AND_BOUNDS, c_void_p)),
    "ddtb_quantize_backward": (None, (*FEATURE_AND_BOUNDS, c_void_p, c_void_p, c_int64, c_void_p, c_void_p)),
}


def quantize(parts: Sequence[Tensor], lower: Tensor, upper: Tensor, k_bits: int) -> Tensor | None:
    """functional.fake_quantize of the concatenation of `parts` over channels; needs no copy of that."""
    arguments = _feature_and_bounds(parts, lower, upper, k_bits)
    if arguments is None:
        return None
    y = torch.empty_like(parts[0]) if len(parts) == 1 else _empty_whole(parts)
    _library().ddtb_quantize(*arguments, y.data_ptr())
    return y


def quantize_backward(parts: Sequence[Tensor], lower: Tensor, upper: Tensor, k_bits: int, grad: Tensor, *,
                      of_bounds: bool) -> tuple[Tensor | None, Tensor | None, list[Tensor]] | None:
    """Gradients of `quantize`: (of lower, of upper, [of each part]); without of_bounds None for the first two."""
    arguments = _feature_and_bounds(parts, lower, upper, k_bits)
    if arguments is None or not _serves(grad):
        return None
    grad = grad.contiguous(memory_format=layout(parts[0]) or torch.contiguous_format)
    grad_parts = [torch.empty_like(part) for part in parts]
    grad_bounds = [torch.empty_like(lower), torch.empty_like(upper)] if of_bounds else [None, None]
    _library().ddtb_quantize_backward(*arguments, grad.data_ptr(), _pointers(grad_parts), row_length(parts[0]),
                                      *(None if grad is None else grad.data_ptr() for grad in grad_bounds))
    return *grad_bounds, grad_parts


def _feature_and_bounds(parts, lower, upper, k_bits):
    """The arguments that both quantizing kernels begin with; None where they do not serve."""
    first = parts[0]
    if not _serves(lower, upper, *parts) or not _fill_memory_alike(parts):
        return None
    if not (lower.is_contiguous() and upper.is_contiguous()):
        return None
    whole = lower.numel() == upper.numel() == 1 and max(lower.dim(), upper.dim()) <= first.dim()
    by_sample = first.dim() == 4 and lower.shape == upper.shape == (len(first), 1, 1, 1)
    if not first.numel() or not (whole or by_sample):
        return None
    n_samples = 1 if whole and len(parts) == 1 else len(first)
    return (_pointers(parts), _sizes(parts, n_samples), len(parts), n_samples, lower.data_ptr(), upper.data_ptr(),
            lower.numel(), k_bits, torch.get_num_threads())


def _fill_memory_alike(parts):
    """Whether samples of all parts lie in memory one after the other, values in the concatenation's order."""
    if len(parts) == 1:
        return layout(parts[0]) is not None
    return all(layout(part) is torch.contiguous_format for part in parts)


def _empty_whole(parts):
    first = parts[0]
    return first.new_empty((len(first), sum(part.shape[1] for part in parts), *first.shape[2:]))


def _sizes(parts, n_samples):
    return (c_int64 * len(parts))(*(part.numel() // n_samples for part in parts))


def layout(x: Tensor) -> torch.memory_format | None:
    """The memory format in which x fills its memory sample by sample, or None."""
    if x.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) else None


def row_length(x: Tensor) -> int:
    """Elements of the two innermost dimensions in memory of a feature; of anything that has not four, all of them."""
    if x.dim() != 4:
        return x.numel()
    _, channels, height, width = x.shape
    return width * (channels if layout(x) is torch.channels_last else height)


def _pointers(tensors):
    return (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _serves(*tensors):
    for tensor in tensors:
        if not (type(tensor) in PLAIN and tensor.dtype is torch.float32 and tensor.is_cpu):
            return False
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing() and _library() is not None


@functools.cache
def _library():
    if os.environ.get("DDTB_KERNELS") == "0":
        return None
    try:
        library, seconds = load(SOURCE, SIGNATURES)
    except (UserError, OSError) as error:
        log.warning("quantizers run in PyTorch's operations, with the same results but slower: %s", error)
        return None
    if seconds:
        log.info("quantizer kernels compiled in %.1f s", seconds)
    return library
