"""The arithmetic of uniform quantization (quant/README.md, "Uniform quantizer").

Order of operations matters: in float32 it gives the published release's values to the bit.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quant.kernels import calls as native

# A range narrower than this share of its larger bound has no useful levels left; it is widened to it.
RELATIVE_WIDTH_FLOOR = 1e-4
ABSOLUTE_WIDTH_FLOOR = 1e-8


def check_bits(k_bits: int) -> None:
    """Raise ValueError unless k_bits is one of the whole numbers 2..8."""
    if not isinstance(k_bits, int) or k_bits not in range(2, 9):
        raise ValueError(f"k_bits {k_bits!r}: 2 to 8 are possible")


def width_floor(lower: Tensor, upper: Tensor) -> Tensor:
    """The smallest width upper - lower that quantization works with; same shape as the bounds."""
    return torch.maximum(lower.abs(), upper.abs()) * RELATIVE_WIDTH_FLOOR + ABSOLUTE_WIDTH_FLOOR


def raised_upper(lower: Tensor, upper: Tensor) -> Tensor:
    """The upper bound, raised where it is less than `width_floor` above lower (crossed bounds included)."""
    floor = width_floor(lower, upper)
    return torch.where(upper - lower < floor, lower + floor, upper)


def scale_and_zero(lower: Tensor, upper: Tensor, k_bits: int) -> tuple[Tensor, Tensor]:
    """s = n/(u-l) and z = round(s*l) + 2**(k-1), shaped like the bounds; q = round(s*x - z) fits signed k bits.

    torch divides a number by a tensor as 1/(u-l) * n, in float32 not always the value of one division; so does the
    release, the compiled kernel and the exported gate.
    """
    scale = (2**k_bits - 1) / (upper - lower)
    return scale, torch.round(scale * lower) + 2 ** (k_bits - 1)


def integer_levels(x: Tensor, lower: Tensor, upper: Tensor, k_bits: int) -> tuple[Tensor, Tensor]:
    """The whole numbers m = q + z with `fake_quantize(x) = m / s`, and s.

    x: float32, any shape. lower, upper: shapes that broadcast to x. Returns (m, s): m float32 holding whole numbers, in
    x's shape, s in the bounds' shape. m spans at most 2**k_bits consecutive values.
    """
    upper = raised_upper(lower, upper)
    scale, zero = scale_and_zero(lower, upper, k_bits)
    levels = torch.clamp(x, lower, upper).mul_(scale).sub_(zero).round_().add_(zero)
    return levels, scale


def fake_quantize(x: Tensor, lower: Tensor, upper: Tensor, k_bits: int) -> Tensor:
    """Clip x to [lower, upper] and round it to 2**k_bits levels, in x's own units.

    x: float32, any shape; feature values or weights. lower, upper: float32, [1] for one pair of bounds, [N, 1, 1, 1]
    for one pair a sample. Returns x's shape, every value m / s with m a whole number. Gradients reach x, lower and
    upper in closed form, with the straight-through rule for the rounding; a tie with a bound counts one half. Bounds
    closer than `width_floor` are taken as that far apart, so that the result is finite. Raises ValueError unless
    2 <= k_bits <= 8.
    """
    return fake_quantize_parts((x,), lower, upper, k_bits)


def fake_quantize_parts(parts: Sequence[Tensor], lower: Tensor, upper: Tensor, k_bits: int) -> Tensor:
    """`fake_quantize` of the concatenation over channels of `parts`, [N, C_i, h, w] each; [N, sum of C_i, h, w].

    What backward needs are the parts themselves: their concatenation is not kept.
    """
    check_bits(k_bits)
    return _FakeQuantize.apply(lower, upper, k_bits, *parts)


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """The concatenation of `parts` over channels; of one part, itself."""
    return torch.cat(list(parts), 1) if len(parts) > 1 else parts[0]


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor, k_bits: int, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(lower, upper, *parts)
        ctx.k_bits = k_bits
        y = _quantized(parts, lower, upper, k_bits)
        ctx.version = None if torch.compiler.is_compiling() or y.is_inference() else y._version
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lower, upper, *parts = ctx.saved_tensors
        arguments, of_bounds = (parts, lower, upper, ctx.k_bits, grad), any(ctx.needs_input_grad[:2])
        grads = native.quantize_backward(*arguments, of_bounds=of_bounds)
        grad_lower, grad_upper, grad_parts = grads or _gradients(*arguments, of_bounds=of_bounds)
        return grad_lower, grad_upper, None, *grad_parts


_Node = _FakeQuantize._backward_cls


def recomputed(*results: Tensor) -> contextlib.AbstractContextManager:
    """Context in which a result of `fake_quantize` is not saved for backward: backward recomputes it.

    This costs one pass over the result and no memory: the backward of `fake_quantize` keeps all inputs anyway.
    """
    if torch.compiler.is_compiling():  # the compiler decides itself what backward keeps
        return contextlib.nullcontext()
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:  # as those of gradient checkpointing
        return contextlib.nullcontext()
    nodes = {_place(result): result.grad_fn for result in results  # recomputing would undo a hook's change in place
             if isinstance(result.grad_fn, _Node) and result._version == result.grad_fn.version}
    if not nodes:
        return contextlib.nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(
        lambda saved: nodes.get(_place(saved), saved),
        lambda packed: _recompute(packed) if isinstance(packed, _Node) else packed)


def _place(tensor):
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _recompute(node):
    lower, upper, *parts = node.saved_tensors
    return _quantized(parts, lower, upper, node.k_bits)


def _quantized(parts, lower, upper, k_bits):
    y = native.quantize(parts, lower, upper, k_bits)
    if y is None and len(parts) > 1:
        return _quantized((concatenated(parts),), lower, upper, k_bits)
    if y is None:
        levels, scale = integer_levels(*parts, lower, upper, k_bits)
        y = levels.div_(scale)
    return y


def _gradients(parts, lower, upper, k_bits, grad, *, of_bounds):
    """Gradients of (lower, upper, [each part]) in closed form; of_bounds: whether those of the bounds are needed."""
    x = concatenated(parts)
    raised = raised_upper(lower, upper)
    to_capped = grad * _less(lower, torch.minimum(x, raised))
    grad_x = to_capped * _less(x, raised)
    grad_parts = grad_x.split([part.shape[1] for part in parts], 1) if len(parts) > 1 else [grad_x]
    if not of_bounds:
        return None, None, grad_parts
    scale, zero = scale_and_zero(lower, raised, k_bits)
    level = torch.clamp(x, lower, raised).mul_(scale).sub_(zero)
    rounding = torch.round(level).sub_(level).mul_(1 / (2**k_bits - 1)).mul_(grad)
    return (summed((grad - to_capped).sub_(rounding), lower, native.layout(x)),
            summed((to_capped - grad_x).add_(rounding), upper, native.layout(x)), grad_parts)


def summed(terms: Tensor, bound: Tensor, layout: torch.memory_format | None = None) -> Tensor:
    """The sum over all elements of `terms` that share a bound, in the bound's shape.

    On the CPU the order of the additions does not depend on the number of threads, and the compiled kernels have the
    same: each row is folded in `terms`' own precision, then the sums of rows in float64. layout: the memory format that
    defines the rows. Other devices and compiled functions use torch's own sum. Overwrites `terms`.
    """
    by_sample = terms.dim() == 4 and bound.shape == (len(terms), 1, 1, 1)
    if not terms.is_cpu or torch.compiler.is_compiling() or not (by_sample or bound.numel() == 1):
        return terms.sum_to_size(bound.shape)
    terms = terms.contiguous(memory_format=layout or torch.contiguous_format)
    row = native.row_length(terms)
    if layout is torch.channels_last:
        terms = terms.permute(0, 2, 3, 1)
    rows = folded(terms.view(bound.numel(), -1, row)).double()
    return folded(rows).to(terms.dtype).view(bound.shape)


def folded(x: Tensor) -> Tensor:
    """Sums over the last dimension of x, [..., n] to [...]: the second half is added to the first until one is left.

    Additions go element by element, so nothing but n decides their order. Overwrites x.
    """
    width = x.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        x[..., : width - half] += x[..., half:width]
        width = half
    return x[..., 0]


def _less(a, b):
    """[a < b] with one half on equality."""
    return torch.sign(b - a).add_(1).mul_(0.5)


def percentiles(x: Tensor, *qs: float) -> list[Tensor]:
    """The q-th percentile of all values of x for each q in 0..100: numpy.percentile's, to the bit.

    x: float32, any shape, not empty. Returns 0-d float32 tensors on x's device; nothing waits for the device.
    """
    x = x.detach()
    positions = [q / 100 * (x.numel() - 1) for q in qs]
    ranks = sorted({rank for position in positions for rank in (math.floor(position), math.ceil(position))})
    ranked = dict(zip(ranks, _order_statistics(x, ranks), strict=True))
    return [_between(ranked[math.floor(position)], ranked[math.ceil(position)], position % 1) for position in positions]


def _order_statistics(x, ranks):
    """The elements of x that so many others precede when it is sorted, [len(ranks)]."""
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if x.is_cpu and x.dtype is not torch.bfloat16 and not tracing:  # several times faster; NumPy has no bfloat16
        return torch.from_numpy(np.sort(x.numpy(), axis=None)[ranks])
    values = x.flatten()
    return torch.stack([values.kthvalue(rank + 1).values for rank in ranks])


def _between(low, high, share):
    """As numpy rounds it: from the nearer end, without a fused multiply-add; of infinities too where share is 0."""
    if share == 0:
        return low
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def extremes(x: Tensor) -> Tensor:
    """(min, max) of all values of x, [2] on its device, without a gradient; NaN both where x holds one."""
    return torch.stack(torch.aminmax(x.detach()))
