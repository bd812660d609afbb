"""where(key <= query and keep, 0, -inf)  ->  causal attention with the mask where(keep, 0, -inf).

What exporters write for all queries and keys is mostly known before the model runs: conditions that
always hold, and the comparison of a key's place with its query's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from tvm import relax, tirx
from tvm.ir import GenericConst
from tvm.sym import Analyzer

from pocketformer.passes.graph import (
    Graph,
    Size,
    constant,
    is_one,
    op_name,
    scalar,
    shape,
    with_span,
)

# exp() of a score below this is 0 beside any real one, so selecting it and adding it are the same.
MASKED = -1e4
# What is added in its place: no score changes it, so that rows of nothing else are the same, too.
HIDDEN = -1e30
# left OP right as right MIRRORED left.
MIRRORED = {"relax.less_equal": "relax.greater_equal", "relax.less": "relax.greater",
            "relax.greater_equal": "relax.less_equal", "relax.greater": "relax.less"}


@dataclass(frozen=True)
class Split:
    """A mask's parts: whether it hides later keys, and what it adds otherwise, if anything."""

    causal: bool
    mask: relax.Expr | None


@dataclass(frozen=True)
class Places:
    """Integers that count from `start` along `axis` (from the last one: -1 keys, -2 queries)."""

    axis: int
    start: Size


@dataclass
class Found:
    """The conditions of a mask, sorted."""

    causal: bool = False
    known: int = 0      # how many are needed no more
    rest: list[relax.Expr] = field(default_factory=list)


def split(graph: Graph, mask: relax.Expr, q_len: Size, kv_len: Size) -> Split:
    """`mask`, which is added to scores, with its causal and its constant conditions set apart."""
    call = graph.value(mask)
    if op_name(call) != "relax.where":
        return Split(False, mask)
    condition, kept, fill = call.args
    hidden = scalar(graph.value(fill))
    if scalar(graph.value(kept)) != 0.0 or hidden is None or hidden > MASKED:
        return Split(False, mask)
    found = Found()
    for each in _conditions(graph, condition):
        _sort(graph, each, found, q_len, kv_len)
    # A query that the rest leaves no key weighs later ones, too: alike only if no score is left.
    if found.causal and found.rest and hidden > HIDDEN:
        return Split(False, mask)
    if not found.known:
        return Split(False, mask)
    if not found.rest:
        return Split(found.causal, None)
    rest = reduce(relax.op.logical_and, found.rest)
    return Split(found.causal, with_span(relax.op.where(rest, kept, fill), call.span))


def _conditions(graph: Graph, expr: relax.Expr) -> list[relax.Expr]:
    call = graph.value(expr)
    if op_name(call) == "relax.logical_and":
        return [each for arg in call.args for each in _conditions(graph, arg)]
    return [expr]


def _sort(graph: Graph, expr: relax.Expr, found: Found, q_len: Size, kv_len: Size) -> None:
    value = graph.value(expr)
    always, causal = False, False
    if isinstance(value, GenericConst):
        always, causal = _of_array(constant(value))
    elif op_name(value) in MIRRORED:
        left, right = (_places(graph, arg) for arg in value.args)
        always, causal = _compared(op_name(value), left, right, q_len, kv_len)
    if always or causal:
        found.known += 1
        found.causal |= causal
    else:
        found.rest.append(expr)


def _of_array(array: np.ndarray) -> tuple[bool, bool]:
    """Whether it holds everywhere, and whether for the keys up to each query alone."""
    if array.dtype != bool:
        return False, False
    if array.all():
        return True, False
    queries, keys = array.shape[-2:] if array.ndim >= 2 else (1, 1)
    lower = np.tri(queries, keys, keys - queries, dtype=bool)
    return False, keys >= queries > 1 and bool((array == lower).all())


def _compared(
    name: str, left: Places | Size | None, right: Places | Size | None, q_len: Size, kv_len: Size
) -> tuple[bool, bool]:
    """The same of a comparison."""
    if left is None or right is None:
        return False, False
    if not isinstance(left, Places) or (isinstance(right, Places) and left.axis == -2):
        left, right, name = right, left, MIRRORED[name]
    if not isinstance(left, Places):
        return False, False
    strict = name in ("relax.less", "relax.greater")
    if isinstance(right, Places):
        if (left.axis, right.axis) != (-1, -2) or not name.startswith("relax.less"):
            return False, False
        # key + left.start <= query + right.start, as causal says key <= query + kv_len - q_len
        ahead = right.start - left.start - int(strict)
        return False, bool(Analyzer().can_prove_equal(ahead, kv_len - q_len))
    least = left.start - int(strict)
    always = name.startswith("relax.greater") and isinstance(least, int) and least >= right
    return bool(always), False


def _places(graph: Graph, expr: relax.Expr) -> Places | Size | None:
    """What is known of integers in the model: their places along an axis, or the one number."""
    value = graph.value(expr)
    if isinstance(value, GenericConst):
        number = constant(value)
        return int(number.item()) if number.size == 1 and number.dtype.kind in "iu" else None
    if op_name(value) == "relax.arange":
        start, _, step = (_size(arg) for arg in value.args)
        return Places(-1, start) if is_one(step) and start is not None else None
    if op_name(value) not in ("relax.reshape", "relax.expand_dims"):
        return None
    inner = _places(graph, value.args[0])
    axes = [axis - value.ty.ndim for axis, size in enumerate(shape(value)) if not is_one(size)]
    if not isinstance(inner, Places) or len(axes) != 1 or axes[0] not in (-1, -2):
        return None
    return Places(axes[0], inner.start)


def _size(expr: relax.Expr) -> Size | None:
    expr = getattr(expr, "value", expr)
    if isinstance(expr, int | tirx.IntImm):
        return int(expr)
    return expr if isinstance(expr, tirx.Var) else None
