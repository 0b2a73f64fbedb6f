"""The arithmetic of uniform quantization (spec, section 3).

Order of operations matters: in float32 it gives the published release's values to the bit.
"""

import torch

# A range narrower than this share of its larger bound has no useful levels left; it is widened to it.
RELATIVE_WIDTH_FLOOR = 1e-4
ABSOLUTE_WIDTH_FLOOR = 1e-8


def check_bits(k_bits):
    """Raise ValueError unless k_bits is one of 2..8."""
    if k_bits not in range(2, 9):
        raise ValueError(f"k_bits {k_bits}: 2 to 8 are possible")


def width_floor(lower, upper):
    """The smallest width upper - lower that quantization works with; same shape as the bounds."""
    return torch.maximum(lower.abs(), upper.abs()) * RELATIVE_WIDTH_FLOOR + ABSOLUTE_WIDTH_FLOOR


def keep_apart(lower, upper):
    """The upper bound, raised where it is less than `width_floor` above lower (crossed bounds included)."""
    floor = width_floor(lower, upper)
    return torch.where(upper - lower < floor, lower + floor, upper)


def scale_and_zero(lower, upper, k_bits):
    """s = n/(u-l) and z = round(s*l) + 2**(k-1), shaped like the bounds; q = round(s*x - z) fits signed k bits."""
    scale = (2**k_bits - 1) / (upper - lower)
    return scale, torch.round(scale * lower) + 2 ** (k_bits - 1)


def integer_levels(x, lower, upper, k_bits):
    """The whole numbers m = q + z with `fake_quantize(x) = m / s`, and s.

    x: float32, any shape. lower, upper: shapes that broadcast to x. Returns (m, s): m float32 holding whole numbers, in
    x's shape, s in the bounds' shape. m spans at most 2**k_bits consecutive values.
    """
    upper = keep_apart(lower, upper)
    scale, zero = scale_and_zero(lower, upper, k_bits)
    levels = torch.clamp(x, lower, upper).mul_(scale).sub_(zero).round_().add_(zero)
    return levels, scale


def fake_quantize(x, lower, upper, k_bits):
    """Clip x to [lower, upper] and round it to 2**k_bits levels, in x's own units (spec, section 3).

    x: float32, any shape; feature values or weights. lower, upper: float32, [1] for one pair of bounds, [N, 1, 1, 1]
    for one pair a sample. Returns x's shape, every value m / s with m a whole number. Gradients reach x, lower and
    upper in closed form, with the straight-through rule for the rounding; a tie with a bound counts one half. Bounds
    closer than `width_floor` are taken as that far apart, so that the result is finite. Raises ValueError unless
    2 <= k_bits <= 8.
    """
    check_bits(k_bits)
    return _FakeQuantize.apply(x, lower, upper, k_bits)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, lower, upper, k_bits):
        levels, scale = integer_levels(x, lower, upper, k_bits)
        y = levels.div_(scale)
        ctx.save_for_backward(x, y, lower, upper)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, y, lower, upper = ctx.saved_tensors
        raised = keep_apart(lower, upper)
        below = _less(x, raised)
        above = _less(lower, torch.minimum(x, raised))
        grad_x = grad_lower = grad_upper = None
        if ctx.needs_input_grad[0]:
            grad_x = grad * below * above
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            rounding = (y - torch.clamp(x, lower, raised)) / (raised - lower)
            grad_upper = (grad * ((1 - below) * above + rounding)).sum_to_size(upper.shape)
            grad_lower = (grad * ((1 - above) - rounding)).sum_to_size(lower.shape)
        return grad_x, grad_lower, grad_upper, None


def _less(a, b):
    """[a < b] with one half on equality."""
    return torch.sign(b - a).add_(1).mul_(0.5)


def percentile(x, q):
    """The q-th percentile of all values of x, q in 0..100, with numpy.percentile's linear interpolation.

    x: float32, any shape, not empty. Returns a 0-d float32 tensor on x's device; nothing waits for the device.
    """
    values = x.detach().flatten()
    position = q / 100 * (values.numel() - 1)
    index = int(position)
    share = position - index
    low = values.kthvalue(index + 1).values
    if share == 0:
        return low
    high = values.kthvalue(index + 2).values
    return torch.lerp(low, high, share)
