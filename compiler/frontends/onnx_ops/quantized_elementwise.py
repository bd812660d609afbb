"""onnxruntime's operators from integers to integers: the float32 operator between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import relax

from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops import activations, elementwise, reduction, shapes
from pocketformer.compiler.frontends.onnx_ops.quantized import quantized
from pocketformer.compiler.frontends.onnx_ops.quantized_numbers import read_grid
from pocketformer.compiler.frontends.onnx_ops.quantized_products import side
from pocketformer.compiler.frontends.onnx_values import Value


def _result(
    b: Builder, result: relax.Expr, scale: Value, zero: Value | None, like: Value
) -> relax.Expr:
    result = b.emit(result)
    dtype = b.dtype(like) if zero is None else b.dtype(zero)
    return quantized(b, result, read_grid(b, result, scale, zero, dtype=dtype))


def _of(convert: Converter, count: int) -> Converter:
    """`count` tensors come as (x, scale, zero?), then the result's scale and zero."""

    def run(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
        tensors = [side(b, inputs[at : at + 3]) for at in range(0, 3 * count, 3)]
        scale, zero = ([*inputs[3 * count :], None])[:2]
        return _result(b, convert(b, node, tensors), scale, zero, inputs[0])

    return run


def _softmax(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    same = replace(node, opset=node.integer("opset", 13))
    return _of(activations.CONVERTERS["Softmax"], 1)(b, same, inputs)


def _concat(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    """The result's scale and zero come first."""
    tensors = [side(b, inputs[at : at + 3]) for at in range(2, len(inputs), 3)]
    return _result(
        b, shapes.CONVERTERS["Concat"](b, node, tensors), inputs[0], inputs[1], inputs[2])


def _where(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    tensors = [inputs[0], side(b, inputs[1:4]), side(b, inputs[4:7])]
    return _result(
        b, elementwise.CONVERTERS["Where"](b, node, tensors), inputs[7], inputs[8], inputs[1])


CONVERTERS: dict[str, Converter] = {
    "com.microsoft.QLinearAdd": _of(elementwise.CONVERTERS["Add"], 2),
    "com.microsoft.QLinearMul": _of(elementwise.CONVERTERS["Mul"], 2),
    "com.microsoft.QLinearSigmoid": _of(elementwise.CONVERTERS["Sigmoid"], 1),
    "com.microsoft.QLinearLeakyRelu": _of(activations.CONVERTERS["LeakyRelu"], 1),
    "com.microsoft.QLinearReduceMean": _of(reduction.CONVERTERS["ReduceMean"], 1),
    "com.microsoft.QLinearSoftmax": _softmax,
    "com.microsoft.QLinearConcat": _concat,
    "com.microsoft.QLinearWhere": _where,
}
