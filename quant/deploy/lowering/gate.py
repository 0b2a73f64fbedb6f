"""The gate (quant/README.md, "Bounds and gates") in the graph: from pooled channels to a grid with runtime bounds.

All is float, [N, C, 1, 1], each image's own, in the order of `quant.functional`; sums and sigmoids are the runtime's.
"""

import numpy as np
from onnx import TensorProto

from quant.deploy.lowering.code_graph import CodeGraph
from quant.deploy.lowering.levels import UINT8_MAX, Grid, RuntimeGrid
from quant.functional import ABSOLUTE_WIDTH_FLOOR, RELATIVE_WIDTH_FLOOR
from quant.methods.ddtb import GATE_BITS, DualBoundQuantizer
from quant.weight import quantize_symmetric
from utility import UserError

MOST_GATED_BITS = 7
BETA_STEPS = 4096  # to these gates' factors are rounded in int8: no runtime's sigmoid or order of summing shows


def runtime_bounds(graph: CodeGraph, quantizer: DualBoundQuantizer, pooled: str) -> RuntimeGrid:
    """The RuntimeGrid of a quantizer whose gate is applied: beta = 2*sigmoid(logits) times the trained bounds.

    pooled: float [N, C, 1, 1], its input's channels' means.
    """
    gate = quantizer.gate
    norm = gate.norm
    hidden = _conv1x1(graph, _quantize(graph, pooled), quantize_symmetric(gate.reduce.weight, GATE_BITS))
    parameters = (graph.constant(value.detach().numpy(), np.float32)
                  for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    hidden = graph.op("BatchNormalization", hidden, *parameters, epsilon=norm.eps)
    hidden = _quantize(graph, graph.op("Relu", hidden))
    logits = _conv1x1(graph, hidden, quantize_symmetric(gate.expand.weight, GATE_BITS))
    lower, upper = (bound.item() for bound in quantizer.static_bounds())
    alpha = np.array([upper, lower], np.float32).reshape(1, 2, 1, 1)
    beta = graph.op("Mul", graph.float32(2), graph.op("Sigmoid", logits))
    if not graph.exact_floats:
        steps = graph.float32(BETA_STEPS)
        beta = graph.op("Div", graph.op("Round", graph.op("Mul", beta, steps)), steps)
    both = graph.op("Mul", beta, graph.constant(alpha))
    high, low = graph.op("Split", both, graph.int64(1, 1), outputs=2, axis=1)
    return _grid(graph, low, high, quantizer.k_bits)


def runtime_codes(graph: CodeGraph, quantizer: DualBoundQuantizer, bounds: RuntimeGrid) -> Grid:
    """The Grid of uint8 codes for the `runtime_bounds` of one image.

    The zero point is the largest that bounds around zero need, and constant, as fast kernels want it: a byte has room
    for it up to MOST_GATED_BITS. Bounds above zero, which stay there, need none and have levels up to 255. Raises
    UserError for bounds whose levels are beyond that where the gate gives 1.
    """
    lower, upper = (bound.item() for bound in quantizer.static_bounds())
    most = 2**quantizer.k_bits - 1
    if upper <= 0 or lower > 0 and most * upper > UINT8_MAX * (upper - lower):
        raise UserError(f"--format qlinear: no 8-bit integer holds the levels of a gated feature whose bounds, "
                        f"{lower:.4g} and {upper:.4g}, lie so far on one side of zero; give --format qdq")
    zero = 0 if lower >= 0 else most
    low, high = (_code(graph, levels(graph, bound, bounds), zero) for bound in (bounds.lower, bounds.upper))
    step = _as_scalar(graph, graph.op("Reciprocal", bounds.scale))
    return Grid(step, zero, low, high)


def on_levels(graph: CodeGraph, x: str, grid: RuntimeGrid) -> str:
    """Float x [N, C, h, w] clipped and rounded to the levels of a RuntimeGrid, float."""
    held = graph.op("Min", graph.op("Max", x, grid.lower), grid.upper)
    return graph.op("Div", levels(graph, held, grid), grid.scale)


def levels(graph: CodeGraph, x: str, grid: RuntimeGrid) -> str:
    """The whole numbers of a RuntimeGrid for x within its bounds, float."""
    return graph.op("Add", graph.op("Round", graph.op("Sub", graph.op("Mul", x, grid.scale), grid.offset)), grid.offset)


def _as_scalar(graph, x):
    return graph.op("Reshape", x, graph.constant(np.zeros(0), np.int64))


def _conv1x1(graph, x, weight):
    return graph.op("Conv", x, graph.constant(weight.detach().numpy() + 0.0), kernel_shape=[1, 1])  # -0.0 becomes 0.0


def _quantize(graph, x):
    """2-bit values between the least and the largest of x."""
    lower, upper = (graph.op(kind, x, graph.int64(1, 2, 3), keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
    return on_levels(graph, x, _grid(graph, lower, upper, GATE_BITS))


def _grid(graph, lower, upper, k_bits):
    """The levels between two bounds, kept a minimal width apart, in float32 and in the order of `functional`."""
    floor = graph.op("Mul", graph.op("Max", graph.op("Abs", lower), graph.op("Abs", upper)),
                     graph.float32(RELATIVE_WIDTH_FLOOR))
    floor = graph.op("Add", floor, graph.float32(ABSOLUTE_WIDTH_FLOOR))
    too_close = graph.op("Less", graph.op("Sub", upper, lower), floor)
    upper = graph.op("Where", too_close, graph.op("Add", lower, floor), upper)
    # as torch divides a number by a tensor; a true division has another last bit for a quarter of the widths
    scale = graph.op("Mul", graph.op("Div", graph.float32(1), graph.op("Sub", upper, lower)),
                     graph.float32(2**k_bits - 1))
    offset = graph.op("Add", graph.op("Round", graph.op("Mul", scale, lower)), graph.float32(2 ** (k_bits - 1)))
    return RuntimeGrid(lower, upper, scale, offset)


def _code(graph, level, zero):
    """A level as a uint8 scalar."""
    code = graph.op("Clip", graph.op("Add", level, graph.float32(zero)), graph.float32(0), graph.float32(UINT8_MAX))
    return _as_scalar(graph, graph.op("Cast", code, to=TensorProto.UINT8))
