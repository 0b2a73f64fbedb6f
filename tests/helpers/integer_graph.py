"""What a file of `--rest int8 --format qlinear` means: its graph evaluated with NumPy, integers in integers.

Features are uint8, weights int8, sums int32 (they stay below 2**31: int64 here). A convolution's sum becomes a code by
one multiplication in float32, rounded to even: code = saturate(round(sum * (x_step * w_step / y_step)) + zero). A
conversion between grids goes by the float32 value (code - zero) * step, divided by the new step and rounded to even.
Gates alone compute in float32; their factors are rounded before they count, so that no order of summing shows.
"""

import numpy as np
from onnx import TensorProto, numpy_helper

TYPES = {TensorProto.FLOAT: np.float32, TensorProto.INT32: np.int32, TensorProto.INT8: np.int8,
         TensorProto.UINT8: np.uint8, TensorProto.INT64: np.int64, TensorProto.DOUBLE: np.float64}


def evaluate(exported, lr):
    """sr of a model in memory; lr: float32 [N, C, h, w]."""
    return _run(exported.graph, {"lr": lr}, {})[0]


def _run(graph, inputs, outer):
    values = {**outer, **inputs, "": None}
    values |= {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        attributes = {one.name: one for one in node.attribute}
        if node.op_type == "Scan":
            body = attributes["body"].g
            images = [_run(body, {body.input[0].name: image}, values)[0] for image in values[node.input[0]]]
            results = [np.stack(images)]
        else:
            results = OPERATORS[node.op_type](attributes, *(values[name] for name in node.input))
            results = results if isinstance(results, list) else [results]
        values |= dict(zip(node.output, results, strict=True))
    return [values[output.name] for output in graph.output]


def _saturated(values, like):
    limits = np.iinfo(like.dtype)
    return np.clip(values, limits.min, limits.max).astype(like.dtype)


def quantize(attributes, x, step, zero):
    return _saturated(np.rint(x / step) + zero.astype(np.float32), zero)


def dequantize(attributes, codes, step, zero):
    return (codes.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * step


def sums_of(x, weight):
    """Sums of products with `same` padding, exact: x int64 [N, I, h, w], weight [O, I, k, k] to [N, O, h, w]."""
    size, margin = weight.shape[-1], weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    height, width = x.shape[2:]
    weight = weight.astype(np.int64)
    return sum(np.einsum("nihw,oi->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
               for i in range(size) for j in range(size))


def qlinear_conv(attributes, x, x_step, x_zero, weight, w_step, w_zero, y_step, y_zero, bias):
    assert not np.any(w_zero)
    sums = sums_of(x.astype(np.int64) - x_zero, weight) + bias.reshape(1, -1, 1, 1)
    factors = np.broadcast_to((x_step * w_step / y_step).astype(np.float32), bias.shape).reshape(1, -1, 1, 1)
    return _saturated(np.rint(sums.astype(np.float32) * factors) + y_zero.astype(np.float32), y_zero)


def matmul_integer(attributes, a, b, a_zero, b_zero):
    return ((a.astype(np.int64) - a_zero) @ (b.astype(np.int64) - b_zero)).astype(np.int32)


def batch_norm(attributes, x, weight, bias, mean, variance):
    weight, bias, mean, variance = (one.reshape(1, -1, 1, 1) for one in (weight, bias, mean, variance))
    return (x - mean) / np.sqrt(variance + np.float32(attributes["epsilon"].f)) * weight + bias


def pad(attributes, x, widths, value):
    before, after = np.split(widths, 2)
    return np.pad(x, list(zip(before, after, strict=True)), constant_values=value)


def cut(attributes, x, starts, ends, axes=None):
    places = [slice(None)] * x.ndim
    for axis, start, end in zip(range(len(starts)) if axes is None else axes, starts, ends, strict=True):
        places[axis] = slice(start, end)
    return x[tuple(places)]


def reshape(attributes, x, shape):
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(shape)])


def split(attributes, x, sizes):
    return np.split(x, np.cumsum(sizes)[:-1], axis=attributes["axis"].i)


OPERATORS = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "QLinearConv": qlinear_conv,
    "MatMulInteger": matmul_integer, "BatchNormalization": batch_norm, "Pad": pad, "Slice": cut, "Reshape": reshape,
    "Split": split,
    "Cast": lambda attributes, x: x.astype(TYPES[attributes["to"].i]),
    "Concat": lambda attributes, *parts: np.concatenate(parts, attributes["axis"].i),
    "Transpose": lambda attributes, x: x.transpose(attributes["perm"].ints),
    "LeakyRelu": lambda attributes, x: np.where(x >= 0, x, x * np.float32(attributes["alpha"].f)),
    "Conv": lambda attributes, x, weight: np.einsum("nihw,oi->nohw", x, weight[:, :, 0, 0]),
    "ReduceMin": lambda attributes, x, axes: x.min(tuple(axes), keepdims=True),
    "ReduceMax": lambda attributes, x, axes: x.max(tuple(axes), keepdims=True),
    "ReduceSum": lambda attributes, x, axes: x.sum(tuple(axes), keepdims=True),
    "Sigmoid": lambda attributes, x: 1 / (1 + np.exp(-x)),
    "Relu": lambda attributes, x: np.maximum(x, 0),
    "Clip": lambda attributes, x, low, high: np.clip(x, low, high),
    "Where": lambda attributes, chosen, a, b: np.where(chosen, a, b),
    "Expand": lambda attributes, x, shape: np.broadcast_to(x, shape),
    "Shape": lambda attributes, x: np.array(x.shape, np.int64),
    "Unsqueeze": lambda attributes, x, axes: np.expand_dims(x, tuple(axes)),
    "Squeeze": lambda attributes, x, axes: x.squeeze(tuple(axes)),
    "Reciprocal": lambda attributes, x: np.float32(1) / x,
    "Round": lambda attributes, x: np.rint(x),
    "Abs": lambda attributes, x: np.abs(x),
    "Less": lambda attributes, a, b: a < b,
    "Add": lambda attributes, a, b: a + b,
    "Sub": lambda attributes, a, b: a - b,
    "Mul": lambda attributes, a, b: a * b,
    "Div": lambda attributes, a, b: a / b,
    "Max": lambda attributes, a, b: np.maximum(a, b),
    "Min": lambda attributes, a, b: np.minimum(a, b),
}
