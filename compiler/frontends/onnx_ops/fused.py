"""Products that onnxruntime's optimiser has fused with what follows or precedes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import broadcast
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops import (
    activations,
    convolution,
    elementwise,
    reduction,
)
from pocketformer.compiler.frontends.onnx_ops.elementwise import number
from pocketformer.compiler.frontends.onnx_values import Value

ACTIVATIONS = {
    name: converter
    for name, converter in {**elementwise.CONVERTERS, **activations.CONVERTERS}.items()
    if name in ("Relu", "Tanh", "Sigmoid", "Softplus", "LeakyRelu", "HardSigmoid", "Elu", "Gelu")
}


def _fused_matmul(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    if node.integer("transBatchA", 0) or node.integer("transBatchB", 0):
        raise UnsupportedOperator("it exchanges a batch axis")
    sides = [b.tensor(value) for value in inputs[:2]]
    for index, flag in enumerate(("transA", "transB")):
        rank = b.rank(sides[index])
        if node.integer(flag, 0) and rank > 1:
            axes = [*range(rank - 2), rank - 1, rank - 2]
            sides[index] = b.emit(R.permute_dims(sides[index], axes))
    result = reduction.matmul(b, *sides)
    if (alpha := node.number("alpha", 1.0)) == 1.0:
        return result
    result = b.emit(result)
    return R.multiply(result, number(b, alpha, result))


def _fused_gemm(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    return _activated(b, node, reduction.CONVERTERS["Gemm"](b, node, inputs))


def _fused_conv(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    result = b.emit(convolution.CONVERTERS["Conv"](b, node, inputs[:3]))
    if len(inputs) > 3 and inputs[3] is not None:
        result = b.emit(R.add(*broadcast(b, result, inputs[3])))
    return _activated(b, node, result)


def _activated(b: Builder, node: Node, result: relax.Expr) -> Any:
    """The activation that is named in an attribute; its own attributes have a prefix or a list."""
    kind = node.text("activation", "")
    if not kind:
        return result
    named = [key for key in node.attributes if key.startswith("activation_")]
    if kind not in ACTIVATIONS or named:
        raise UnsupportedOperator(f"it has the activation {kind!r} {' '.join(named)}".rstrip())
    plain = replace(node, attributes={})
    return ACTIVATIONS[kind](b, plain, [b.emit(result)])


CONVERTERS: dict[str, Converter] = {
    "com.microsoft.FusedMatMul": _fused_matmul,
    "com.microsoft.FusedGemm": _fused_gemm,
    "com.microsoft.FusedConv": _fused_conv,
}
