"""Which range the integers lie in that the model computes: positions, counts, masks.

An index that is known to be in range needs no check, and a table that is looked up by position
tells how long the sequence may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from pocketformer.compiler.frontends.onnx_builder import Builder
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import Size, Solver, Symbolic, Value

LARGEST_SCANNED = 1 << 20    # elements of a constant that is searched for its extremes


@dataclass(frozen=True)
class Interval:
    """All integers from `low` to `high`, both included."""

    low: Size
    high: Size


Rule = Callable[[Solver, Sequence[Interval]], "Interval | None"]


def interval_of(b: Builder, value: Value | None) -> Interval | None:
    """What is known about the integers in `value`; None: nothing."""
    if value is None or b.dtype(value)[:3] not in ("int", "uin", "boo"):
        return None
    if isinstance(value, np.ndarray):
        if not 0 < value.size <= LARGEST_SCANNED:
            return None
        return Interval(int(value.min()), int(value.max()))
    if isinstance(value, Symbolic):
        if value.array.size != 1 or value.dtype == "bool":
            return None
        return Interval(value.array.reshape(-1)[0], value.array.reshape(-1)[0])
    known = b.intervals.get(value)
    return Interval(0, 1) if known is None and b.dtype(value) == "bool" else known


def note_interval(b: Builder, node: Node, inputs: Sequence[Value | None], result: Value) -> None:
    """Remember what `node` says about the range of its integer result."""
    if not isinstance(result, relax.Var) or not b.dtype(result).startswith("int"):
        return
    found = _range(b, inputs) if node.kind == "Range" else _computed(b, node, inputs)
    if found is not None:
        b.intervals[result] = found
    if node.kind == "Concat":
        _note_columns(b, node, inputs, result)


def _computed(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Interval | None:
    if node.kind == "CumSum":
        return _cumulated(b, node, inputs)
    given = inputs[1:3] if node.kind == "Where" else inputs
    if node.kind in FROM_FIRST:
        return interval_of(b, inputs[0])
    rule = RULES.get(node.kind)
    intervals = [interval_of(b, value) for value in given] if rule else []
    known = [interval for interval in intervals if interval is not None]
    if rule is None or not known or len(known) < len(intervals):
        return None
    return rule(b.solver, known)


def _note_columns(b: Builder, node: Node, inputs: Sequence[Value | None], result: Value) -> None:
    """Index tuples are joined from one tensor for each indexed axis; each keeps its own range."""
    shape = b.shape(result)
    if b.axis(node.integer("axis"), len(shape)) != len(shape) - 1 or shape[-1] != len(inputs):
        return
    columns = [interval_of(b, value) for value in inputs]
    b.columns[result] = columns


def _range(b: Builder, inputs: Sequence[Value | None]) -> Interval | None:
    start, limit, step = (interval_of(b, value) for value in inputs)
    if start is None or limit is None or step is None:
        return None
    if not isinstance(step.low, int) or step.low < 1:
        return None
    return Interval(start.low, b.solver.simplify(limit.high - 1))


def _cumulated(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Interval | None:
    each = interval_of(b, inputs[0])
    if each is None or not isinstance(inputs[1], np.ndarray) or not _not_negative(b.solver, each):
        return None
    axis = b.axis(int(inputs[1].reshape(-1)[0]), b.rank(inputs[0]))
    return Interval(0, b.solver.simplify(each.high * b.shape(inputs[0])[axis]))


def _not_negative(solver: Solver, interval: Interval) -> bool:
    return solver.proves(solver.at_least(interval.low, 0))


def _hull(solver: Solver, parts: Sequence[Interval]) -> Interval:
    low, high = parts[0].low, parts[0].high
    for part in parts[1:]:
        low, high = solver.minimum(low, part.low), solver.maximum(high, part.high)
    return Interval(low, high)


def _sum(solver: Solver, parts: Sequence[Interval]) -> Interval:
    return Interval(
        solver.simplify(parts[0].low + parts[1].low), solver.simplify(parts[0].high + parts[1].high)
    )


def _difference(solver: Solver, parts: Sequence[Interval]) -> Interval:
    return Interval(
        solver.simplify(parts[0].low - parts[1].high), solver.simplify(parts[0].high - parts[1].low)
    )


def _product(solver: Solver, parts: Sequence[Interval]) -> Interval | None:
    if not all(_not_negative(solver, part) for part in parts):
        return None
    return Interval(
        solver.simplify(parts[0].low * parts[1].low), solver.simplify(parts[0].high * parts[1].high)
    )


FROM_FIRST = frozenset({
    "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Expand", "Transpose", "Cast", "Slice", "Tile",
    "Gather", "GatherND", "GatherElements", "Split",
})    # fmt: skip
RULES: dict[str, Rule] = {
    "Add": _sum,
    "Sub": _difference,
    "Mul": _product,
    "Where": _hull,
    "Concat": _hull,
    "Min": _hull,
    "Max": _hull,
}
