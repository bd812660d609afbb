"""How many operations a model's products take, a multiply-add counting as two."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any


def operations(path: Path) -> int:
    """Those of the matrix products and convolutions of an ONNX file of fixed sizes.

    All else of a Transformer is a few per mille of them.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    graph = model.graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return sum(2 * _products(node, shapes) for node in graph.node)


def _products(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """The multiply-adds of a node; 0 for what multiplies no matrices."""
    if node.op_type in ("MatMul", "Gemm"):
        left = shapes[node.input[0]]
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(shapes[node.output[0]]) * left[0 if transposed else -1]
    if node.op_type == "Conv":
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    return 0
