"""Queries, keys and values: what they are computed from, seen through transposes and repeats."""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import relax

from pocketformer.passes.fused_operators import BSHD_OF_BHSD
from pocketformer.passes.graph import (
    Graph,
    Size,
    emit,
    join_spans,
    op_name,
    same_sizes,
    scalar,
    shape,
)
from pocketformer.passes.refusal import Refused


@dataclass
class Operand:
    """An operand of a product: axis `i` is axis `order[i]` of `base`, times `scale`."""

    base: relax.Expr
    order: list[int]
    scale: float = 1.0
    repeats: int = 1
    passed: list[relax.Expr] = field(default_factory=list)


def operand_of(graph: Graph, expr: relax.Expr) -> Operand:
    """Look through transposes, constant factors and the repetition of key heads."""
    operand = Operand(expr, list(range(len(shape(expr)))))
    while True:
        call = graph.value(operand.base)
        match op_name(call):
            case "relax.permute_dims":
                axes = axes_of(call)
                operand.order = [axes[axis] for axis in operand.order]
                operand.base = call.args[0]
            case "relax.multiply" | "relax.divide":
                try:
                    operand.base, factor = scaled(graph, call)
                except Refused:
                    return operand
                operand.scale *= factor
            case "relax.reshape" if found := _repeated(graph, call.args[0], shape(call)):
                operand.base, repeats, seen = found
                operand.repeats *= repeats
                operand.passed += seen
            case "relax.reshape" if found := _transposed_as_batch(graph, call):
                operand.order = [[0, 1, 3, 2][axis] for axis in operand.order]
                operand.base, repeats, seen = found
                operand.repeats *= repeats
                operand.passed += seen
            case _:
                return operand
        operand.passed.append(call)


def _transposed_as_batch(
    graph: Graph, reshape: relax.Call
) -> tuple[relax.Expr, int, list[relax.Expr]] | None:
    """Heads whose last two axes are swapped while batch and heads are merged for the moment.

    Returns them, how often each is repeated, and the operators between.
    """
    swap = graph.value(reshape.args[0])
    if op_name(swap) != "relax.permute_dims" or axes_of(swap) != [0, 2, 1]:
        return None
    merge = graph.value(swap.args[0])
    outer = shape(reshape)
    if op_name(merge) != "relax.reshape" or len(outer) != 4:
        return None
    sizes = [*outer[:2], outer[3], outer[2]]
    if not same_sizes(shape(merge)[1:], sizes[2:]):
        return None
    if same_sizes(shape(merge.args[0]), sizes):
        return merge.args[0], 1, [merge, swap]
    if (found := _repeated(graph, merge.args[0], sizes)) is None:
        return None
    heads, repeats, seen = found
    return heads, repeats, [*seen, merge, swap]


def _repeated(
    graph: Graph, expr: relax.Expr, sizes: list[Size]
) -> tuple[relax.Expr, int, list[relax.Expr]] | None:
    """The heads that broadcast(heads[:, :, None]) repeats to `sizes`, and how often."""
    wide = graph.value(expr)
    if op_name(wide) != "relax.broadcast_to" or len(shape(wide)) != 5 or len(sizes) != 4:
        return None
    batch, heads, repeats, length, size = shape(wide)
    if not same_sizes([batch, heads * repeats, length, size], sizes):
        return None
    inner = graph.value(wide.args[0])
    if op_name(inner) not in ("relax.expand_dims", "relax.reshape"):
        return None
    if not same_sizes(shape(inner), [batch, heads, 1, length, size]):
        return None
    if not same_sizes(shape(inner.args[0]), [batch, heads, length, size]):
        return None
    return inner.args[0], int(repeats), [wide, inner]


def bshd(
    before: list[relax.VarBinding], operand: Operand, layout: list[int], name: str
) -> relax.Expr:
    """`operand` as [batch, length, heads, size]; `layout` tells where its operand axes stand."""
    if len(operand.order) != len(layout):
        raise Refused(f"an operand has rank {len(operand.order)}, the scores have {len(layout)}")
    axes = [operand.order[axis] for axis in layout]
    if len(axes) == 4:
        axes = [axes[axis] for axis in BSHD_OF_BHSD]
    expr = operand.base
    if axes != list(range(len(axes))):
        expr = emit(before, relax.op.permute_dims(expr, axes), name, join_spans(operand.passed))
    if len(axes) == 3:
        batch, length, size = shape(expr)
        expr = emit(before, relax.op.reshape(expr, (batch, length, 1, size)), f"{name}bshd")
    return expr


def scaled(graph: Graph, call: relax.Call) -> tuple[relax.Expr, float]:
    """The operand and the factor of a product with, or quotient by, a constant."""
    left, right = call.args
    inverse = op_name(call) == "relax.divide"
    for expr, other in [(left, right)] if inverse else [(left, right), (right, left)]:
        factor = scalar(graph.value(other))
        if not factor or len(shape(expr)) != len(shape(call)):    # a constant may add axes
            continue
        return expr, 1.0 / factor if inverse else factor
    raise Refused("the scores are scaled by something that is no constant")


def axes_of(transpose: relax.Call) -> list[int]:
    rank = len(shape(transpose))
    axes = transpose.attrs.axes
    return list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes]
