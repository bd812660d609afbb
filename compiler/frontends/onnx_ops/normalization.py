"""LayerNormalization, RMSNormalization and their family, also as optimised files fuse them."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import broadcast, broadcast_to
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops.elementwise import number
from pocketformer.compiler.frontends.onnx_values import Size, Value


def _last_axes(b: Builder, node: Node, rank: int) -> list[int]:
    return list(range(b.axis(node.integer("axis", -1), rank), rank))


def _affine(b: Builder, value: Value | None, shape: list[Size], dtype: str, fill: float) -> Any:
    """A scale or bias of exactly the normalised axes."""
    if value is None:
        if any(not isinstance(size, int) for size in shape):
            return b.emit(R.full(shape, b.literal(fill, dtype)))
        array = np.full([int(size) for size in shape], fill, dtype)
        b.weights.name(array, f"{b.node.name}.{'ones' if fill else 'zeros'}")
        return b.tensor(array)
    given = b.shape(value)
    if len(given) > len(shape):    # leading axes of length 1
        value, given = b.reshape(value, given[-len(shape) :]), given[-len(shape) :]
    return b.tensor(broadcast_to(b, value, shape))


def _layer_norm(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    x, scale, bias = ([*inputs, None, None])[:3]
    x = b.tensor(x)
    result, axes = layer_norm(b, node, x, scale, bias), _last_axes(b, node, b.rank(x))
    if not any(node.outputs[1:]):
        return result
    mean = R.mean(x, axes, True)
    apart = R.subtract(x, mean)
    variance = R.mean(R.multiply(apart, apart), axes, True)
    inverse = R.rsqrt(R.add(variance, number(b, node.number("epsilon", 1e-5), x)))
    return result, mean, inverse


def layer_norm(
    b: Builder, node: Node, x: relax.Expr, scale: Value | None, bias: Value | None
) -> relax.Expr:
    axes, dtype = _last_axes(b, node, b.rank(x)), b.dtype(x)
    shape = [b.shape(x)[axis] for axis in axes]
    gamma, beta = _affine(b, scale, shape, dtype, 1), _affine(b, bias, shape, dtype, 0)
    return R.nn.layer_norm(x, gamma, beta, axes, node.number("epsilon", 1e-5))


def rms_norm(b: Builder, node: Node, x: relax.Expr, scale: Value | None) -> relax.Expr:
    axes = _last_axes(b, node, b.rank(x))
    gamma = _affine(b, scale, [b.shape(x)[axis] for axis in axes], b.dtype(x), 1)
    return R.nn.rms_norm(x, gamma, axes, node.number("epsilon", 1e-5))


def _rms_norm(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    if any(node.outputs[1:]):
        raise BadModel("it also returns its statistics, which is not supported")
    return rms_norm(b, node, b.tensor(inputs[0]), inputs[1] if len(inputs) > 1 else None)


def _skip_norm(simplified: bool) -> Converter:
    """norm(x + skip + bias), which also returns the sum; inputs differ by the missing beta."""

    def run(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
        given = [*inputs, None, None, None]
        x, skip, scale = given[:3]
        beta, bias = (None, given[3]) if simplified else (given[3], given[4])
        total = b.emit(R.add(*broadcast(b, x, skip)))
        if bias is not None:
            total = b.emit(R.add(*broadcast(b, total, bias)))
        if any(node.outputs[1:3]):
            raise BadModel("it also returns its statistics, which is not supported")
        if simplified:
            return rms_norm(b, node, total, scale), None, None, total
        return layer_norm(b, node, total, scale, beta), None, None, total

    return run


def _instance_norm(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    x = b.tensor(inputs[0])
    if b.rank(x) < 3:
        raise BadModel(f"its input has rank {b.rank(x)}, it needs at least 3")
    return R.nn.instance_norm(
        x, b.tensor(inputs[1]), b.tensor(inputs[2]), 1, list(range(2, b.rank(x))),
        node.number("epsilon", 1e-5),
    )    # fmt: skip


def _group_norm(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    x, groups = b.tensor(inputs[0]), node.integer("num_groups")
    channels = b.shape(x)[1] if b.rank(x) > 2 else None
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise BadModel(f"{groups} groups do not divide its channels ({channels})")
    scale, bias = (b.tensor(_per_channel(b, value, channels)) for value in inputs[1:3])
    return R.nn.group_norm(
        x, scale, bias, groups, 1, list(range(2, b.rank(x))), node.number("epsilon", 1e-5)
    )


def _per_channel(b: Builder, value: Value, channels: int) -> Value:
    """Until opset 20 the scale and bias were one for each group."""
    size = b.shape(value)[0]
    if size == channels:
        return value
    array = np.repeat(b.constant(value, "scale or bias"), channels // size)
    b.weights.name(array, f"{b.node.name}.affine")
    return array


def _lp_norm(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    x = b.tensor(inputs[0])
    axis, power = b.axis(node.integer("axis", -1), b.rank(x)), node.integer("p", 2)
    if power not in (1, 2):
        raise BadModel(f"its p is {power}")
    if power == 1:
        return R.divide(x, R.sum(R.abs(x), axis, True))
    return R.divide(x, R.sqrt(R.sum(R.multiply(x, x), axis, True)))


def _batch_norm(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    """x * factor + offset; both are computed here where the statistics are weights."""
    if node.integer("training_mode", 0):
        raise UnsupportedOperator("it is in training mode; export the model with eval()")
    x, (scale, bias, mean, variance) = b.tensor(inputs[0]), inputs[1:5]
    channel = [1, -1, *[1] * (b.rank(x) - 2)]
    epsilon = node.number("epsilon", 1e-5)
    if all(isinstance(value, np.ndarray) for value in (scale, bias, mean, variance)):
        with np.errstate(all="ignore"):    # broken statistics give NaN here as anywhere
            factor = scale / np.sqrt(variance.astype(np.float64) + epsilon)
            offset = bias - mean * factor
            parts = [part.astype(scale.dtype).reshape(channel) for part in (factor, offset)]
        for part, word in zip(parts, ("factor", "offset"), strict=True):
            b.weights.name(part, f"{node.name}.{word}")
        return R.add(R.multiply(x, b.tensor(parts[0])), b.tensor(parts[1]))
    wide = [
        b.tensor(b.reshape(value, [1, b.shape(value)[0], *channel[2:]]))
        for value in (scale, bias, mean, variance)
    ]
    factor = R.divide(wide[0], R.sqrt(R.add(wide[3], number(b, epsilon, b.tensor(variance)))))
    return R.add(R.multiply(R.subtract(x, wide[2]), factor), wide[1])


CONVERTERS: dict[str, Converter] = {
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": _lp_norm,
    "com.microsoft.SkipLayerNormalization": _skip_norm(simplified=False),
    "com.microsoft.SkipSimplifiedLayerNormalization": _skip_norm(simplified=True),
}
