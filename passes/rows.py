"""Which rows of its operands an operator needs, so that some rows of its result can be computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from tvm import relax
from tvm.ir import GenericConst
from tvm.sym import Analyzer

from pocketformer.passes.graph import Graph, Size, constant, is_one, op_name, same_sizes, shape
from pocketformer.passes.refusal import Refused


@dataclass(frozen=True)
class Rows:
    """`count` of the `total` rows along an axis, from `begin` on.

    Where axes are merged into one, `outer` groups of `total` rows follow one another in it, and the
    rows are those of every group.
    """

    axis: int
    begin: Size
    count: int
    total: Size
    outer: Size = 1

    def same(self, other: Rows) -> bool:
        """Whether both are the same rows of the same axis."""
        mine, theirs = (
            [rows.begin, rows.count, rows.total, rows.outer] for rows in (self, other)
        )
        return self.axis == other.axis and same_sizes(mine, theirs)

    def sizes(self, whole: Sequence[Size]) -> list[Size]:
        """The shape that is left of `whole`."""
        sizes = list(whole)
        sizes[self.axis] = self.outer * self.count
        return sizes

    def of(self, x: relax.Expr) -> relax.Expr:
        """An expression that takes the rows out of `x`."""
        sizes = shape(x)
        split = not is_one(self.outer)
        axis = self.axis + split
        if split:
            parts = [*sizes[: self.axis], self.outer, self.total, *sizes[self.axis + 1 :]]
            x = relax.op.reshape(x, parts)
        end = self.begin + self.count
        x = relax.op.strided_slice(x, [axis], [self.begin], [end], assume_inbound=True)
        return relax.op.reshape(x, self.sizes(sizes)) if split else x


def rows_read(graph: Graph, call: relax.Expr) -> Rows | None:
    """The rows of its first operand that are all `call` reads, if it does nothing but take them."""
    match op_name(call):
        case "relax.strided_slice":
            rows = _of_slice(graph, call)
        case "relax.take":
            rows = _of_take(graph, call)
        case _:
            return None
    if rows is None or not isinstance(rows.total, int):
        return rows
    # Where they begin must be known, too: nothing else tells that they lie inside.
    inside = isinstance(rows.begin, int) and 0 <= rows.begin <= rows.total - rows.count
    return rows if inside else None


def _of_slice(graph: Graph, call: relax.Call) -> Rows | None:
    axes, begins, _, *strides = (list(graph.value(arg).fields) for arg in call.args[1:])
    if len(axes) != 1 or any(int(step) != 1 for step in (strides or [[]])[0]):
        return None
    source = shape(call.args[0])
    axis = int(axes[0]) % len(source)
    total, count = source[axis], shape(call)[axis]
    begin = _number(begins[0])
    if isinstance(begin, int) and begin < 0:
        begin = Analyzer().simplify(total + begin) if not isinstance(total, int) else total + begin
    return Rows(axis, begin, count, total) if isinstance(count, int) else None


def _of_take(graph: Graph, call: relax.Call) -> Rows | None:
    index = graph.value(call.args[1])
    if not isinstance(index, GenericConst) or constant(index).size != 1 or call.attrs.axis is None:
        return None
    source, number = shape(call.args[0]), int(constant(index).reshape(-1)[0])
    axis = int(call.attrs.axis) % len(source)
    # Of a size that is not known only the first place is sure to be there.
    if number != 0 and not isinstance(source[axis], int):
        return None
    return Rows(axis, number, 1, source[axis])


def rows_needed(call: relax.Call, rows: Rows) -> list[Rows | None]:
    """For every operand of `call` the rows that its `rows` are computed from; None is all of it.

    Raises Refused where its rows depend on one another.
    """
    rule = RULES.get(op_name(call))
    if rule is None:
        raise Refused(f"it is not known whether rows of {op_name(call)} depend on one another")
    return rule(call, rows)


def of_rows(call: relax.Call, args: list[relax.Expr], rows: Rows) -> relax.Expr:
    """`call` of operands that hold the needed rows only."""
    match op_name(call):
        case "relax.reshape":
            return relax.op.reshape(args[0], rows.sizes(shape(call)))
        case "relax.broadcast_to":
            return relax.op.broadcast_to(args[0], rows.sizes(shape(call)))
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)


def _elementwise(call: relax.Call, rows: Rows) -> list[Rows | None]:
    return [_aligned(arg, len(shape(call)), rows) for arg in call.args]


def _aligned(arg: relax.Expr, rank: int, rows: Rows) -> Rows | None:
    """The rows of an operand that is broadcast to `rank` axes."""
    if not isinstance(arg.ty, relax.TensorType):
        return None
    sizes = shape(arg)
    axis = rows.axis - (rank - len(sizes))
    return None if axis < 0 or is_one(sizes[axis]) else replace(rows, axis=axis)


def _reshape(call: relax.Call, rows: Rows) -> list[Rows | None]:
    source, target = shape(call.args[0]), shape(call)
    end = _product([*target[: rows.axis], rows.outer, rows.total])
    for axis in range(len(source)):
        if not _equal(_product(source[: axis + 1]), end):
            continue
        before = _product(source[:axis])
        for merged in range(rows.axis, -1, -1):
            if _equal(_product(target[:merged]), before):
                outer = _product([*target[merged : rows.axis], rows.outer])
                return [replace(rows, axis=axis, outer=outer), *[None] * (len(call.args) - 1)]
    raise Refused("a reshape mixes rows with what is in them")


def _permute(call: relax.Call, rows: Rows) -> list[Rows | None]:
    rank = len(shape(call))
    axes = call.attrs.axes
    order = list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes]
    return [replace(rows, axis=order[rows.axis])]


def _along(call: relax.Call, rows: Rows) -> list[Rows | None]:
    """Operators that work along one or more axes and keep the others."""
    given = getattr(call.attrs, "axes", None) or [call.attrs.axis]
    first = call.args[0] if isinstance(call.args[0].ty, relax.TensorType) else call
    rank = len(shape(first))
    if rows.axis in [int(axis) % rank for axis in given]:
        raise Refused(f"{op_name(call)} runs over the rows")
    return [rows, *[None] * (len(call.args) - 1)]


def _reduction(call: relax.Call, rows: Rows) -> list[Rows | None]:
    rank = len(shape(call.args[0]))
    given = call.attrs.axis
    gone = range(rank) if given is None else sorted(int(axis) % rank for axis in given)
    left = [axis for axis in range(rank) if call.attrs.keepdims or axis not in gone]
    if (axis := left[rows.axis]) in gone:
        raise Refused(f"{op_name(call)} runs over the rows")
    return [replace(rows, axis=axis)]


def _matmul(call: relax.Call, rows: Rows) -> list[Rows | None]:
    left, right = (len(shape(arg)) for arg in call.args)
    rank = len(shape(call))
    if left < 2 or right < 2 or rows.axis == rank - 1:
        raise Refused("the rows are columns of a product")
    if rows.axis == rank - 2:
        return [replace(rows, axis=left - 2), None]
    return [_aligned(arg, rank, rows) for arg in call.args]


def _take(call: relax.Call, rows: Rows) -> list[Rows | None]:
    if call.attrs.axis is None:
        return [None, rows]
    axis = int(call.attrs.axis) % len(shape(call.args[0]))
    width = len(shape(call.args[1]))
    if axis <= rows.axis < axis + width:
        return [None, replace(rows, axis=rows.axis - axis)]
    at = rows.axis if rows.axis < axis else rows.axis - width + 1
    return [replace(rows, axis=at), None]


def _slice(call: relax.Call, rows: Rows) -> list[Rows | None]:
    if rows.axis in [int(axis) % len(shape(call)) for axis in call.args[1].fields]:
        raise Refused("the rows are a slice of others")
    return [rows, *[None] * (len(call.args) - 1)]


def _product(sizes: Sequence[Size]) -> Size:
    return reduce(lambda a, b: b if is_one(a) else a * b, sizes, 1)


def _equal(left: Size, right: Size) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return bool(Analyzer().can_prove_equal(left, right))


def _number(size: Any) -> Size:
    return int(size) if hasattr(size, "value") else size


ELEMENTWISE = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "where", "astype",
    "abs", "negative", "exp", "erf", "log", "tanh", "sigmoid", "sqrt", "rsqrt", "sin", "cos",
    "isnan", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or", "logical_not", "nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu",
    "broadcast_to",
)    # fmt: skip
RULES: dict[str, Callable[[relax.Call, Rows], list[Rows | None]]] = {
    **{f"relax.{name}": _elementwise for name in ELEMENTWISE},
    **dict.fromkeys(("relax.reshape", "relax.expand_dims", "relax.squeeze"), _reshape),
    **dict.fromkeys(
        ("relax.nn.softmax", "relax.nn.log_softmax", "relax.nn.layer_norm", "relax.nn.rms_norm",
         "relax.concat", "relax.split"),
        _along,
    ),
    **{f"relax.{name}": _reduction for name in ("mean", "sum", "max", "min", "variance")},
    "relax.permute_dims": _permute,
    "relax.matmul": _matmul,
    "relax.take": _take,
    "relax.strided_slice": _slice,
}
