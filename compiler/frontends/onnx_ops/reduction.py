"""Operators that reduce, accumulate or contract axes: Reduce*, CumSum, MatMul, Gemm, Einsum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import (
    broadcast,
    broadcast_shape,
    differ,
    require_broadcast,
)
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops.elementwise import number
from pocketformer.compiler.frontends.onnx_ops.fold_structure import reduced_axes
from pocketformer.compiler.frontends.onnx_values import Value

Reducer = Callable[..., relax.Expr]


def _reduce(make: Reducer, identity: Callable[[relax.Expr], relax.Expr] = lambda x: x) -> Converter:
    """`identity` is what the operator does to each element where it reduces nothing."""

    def run(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
        x = b.tensor(inputs[0])
        axes = reduced_axes(b, node, b.rank(x), inputs[1] if len(inputs) > 1 else None)
        if not axes:
            return identity(x)
        return make(x, axes, bool(node.integer("keepdims", 1)))

    return run


def _log_sum_exp(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    top = R.max(x, axes, True)
    total = R.add(R.log(R.sum(R.exp(R.subtract(x, top)), axes, True)), top)
    return total if keep else R.squeeze(total, axes)


def _cumsum(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    x = b.tensor(inputs[0])
    axis = b.axis(int(b.number(inputs[1], "axis")), b.rank(x))
    backwards = bool(node.integer("reverse", 0))
    x = R.flip(x, axis) if backwards else x
    total = R.cumsum(x, axis, b.dtype(inputs[0]), bool(node.integer("exclusive", 0)))
    return R.flip(total, axis) if backwards else total


def _matmul(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    return matmul(b, b.tensor(inputs[0]), b.tensor(inputs[1]))


def matmul(b: Builder, left: relax.Expr, right: relax.Expr) -> relax.Expr:
    """left @ right, whose inner and batch sizes have to agree."""
    m, n = b.shape(left), b.shape(right)
    if not m or not n:
        raise BadModel("it multiplies a scalar")
    inner = n[-2] if len(n) > 1 else n[-1]
    if differ(m[-1], inner):
        raise BadModel(f"it multiplies the shapes {tuple(m)} and {tuple(n)}")
    b.require([m[-1]], [inner])
    common = broadcast_shape([m[:-2], n[:-2]])
    for shape in (m, n):
        require_broadcast(b, shape[:-2], common)
    return R.matmul(left, right)


def _gemm(b: Builder, node: Node, inputs: list[Value | None]) -> relax.Expr:
    sides = []
    for value, flag in zip(inputs[:2], ("transA", "transB"), strict=True):
        if b.rank(value) != 2:
            raise BadModel(f"it multiplies a tensor of rank {b.rank(value)}, it needs 2")
        sides.append(_transposed(b, value) if node.integer(flag, 0) else b.tensor(value))
    result = b.emit(matmul(b, *sides))
    if (alpha := node.number("alpha", 1.0)) != 1.0:
        result = b.emit(R.multiply(result, number(b, alpha, result)))
    if len(inputs) < 3 or inputs[2] is None:
        return result
    bias, beta = b.tensor(inputs[2]), node.number("beta", 1.0)
    if beta != 1.0:
        bias = b.emit(R.multiply(bias, number(b, beta, bias)))
    return R.add(*broadcast(b, result, bias))


def _transposed(b: Builder, value: Value) -> relax.Expr:
    """A weight that has no other use is stored transposed; all else is transposed at run time."""
    if isinstance(value, np.ndarray) and not b.weights.is_shared(value):
        return b.tensor(b.weights.name_after(value.T, value))
    return b.emit(R.permute_dims(b.tensor(value), [1, 0]))


def _einsum(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    equation = node.text("equation").replace(" ", "")
    tensors = [b.tensor(value) for value in inputs]
    terms = equation.split("->")[0].split(",")
    if len(terms) != len(tensors):
        raise BadModel(f"its equation {equation!r} is not for {len(tensors)} tensors")
    sizes: dict[str, Any] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        if "." in term:
            raise UnsupportedOperator(f"its equation {equation!r} has an ellipsis")
        shape = b.shape(tensor)
        if len(term) != len(shape):
            raise BadModel(f"{term!r} does not fit a tensor of rank {len(shape)}")
        for letter, size in zip(term, shape, strict=True):
            known = sizes.setdefault(letter, size)
            if differ(known, size):
                raise BadModel(f"its equation {equation!r} makes {known} and {size} one")
            b.require([size], [known])
    return R.einsum(tensors, equation)


CONVERTERS: dict[str, Converter] = {
    "ReduceSum": _reduce(R.sum),
    "ReduceMean": _reduce(R.mean),
    "ReduceMax": _reduce(R.max),
    "ReduceMin": _reduce(R.min),
    "ReduceProd": _reduce(R.prod),
    "ReduceL1": _reduce(lambda x, a, k: R.sum(R.abs(x), a, k), R.abs),
    "ReduceL2": _reduce(lambda x, a, k: R.sqrt(R.sum(R.multiply(x, x), a, k)), R.abs),
    "ReduceSumSquare": _reduce(
        lambda x, a, k: R.sum(R.multiply(x, x), a, k), lambda x: R.multiply(x, x)
    ),
    "ReduceLogSum": _reduce(lambda x, a, k: R.log(R.sum(x, a, k)), R.log),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "CumSum": _cumsum,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
}
