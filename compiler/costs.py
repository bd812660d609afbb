"""What a call of a kernel costs: floating-point operations and bytes, in symbolic sizes.

Operations are those of the mathematics, not those that a kernel happens to execute. A template's
are its matrix products' alone where it has some, so that its speed compares with any GEMM's; of
other kernels every addition, product, comparison of sizes, root or exponential counts as one.
Bytes are each tensor once, and of a table the rows that are looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import tvm_ffi
from tvm import ir, relax, s_tir, tirx
from tvm.ir import Call, TensorLoad
from tvm.sym import Analyzer

from pocketformer.compiler.axes import names_in
from pocketformer.compiler.dims import axis_of
from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.model import Axis
from pocketformer.passes.graph import Size, dtype, shape

LAYER_NORM, RMS_NORM, SOFTMAX = 8, 4, 5    # operations an element: means, differences, scaling
LARGEST = 1 << 40                          # of a dimension, for the proofs
Shape: TypeAlias = list[Size]


@dataclass(frozen=True)
class Cost:
    """Formulas in named dimensions; None where they are not known or too complicated."""

    operations: Axis | None = None
    bytes: Axis | None = None


# Templates


def _linear(args: Sequence[Shape]) -> Size:
    return product([2, *args[-1], args[0][-1]])


def _attention(args: Sequence[Shape]) -> Size:
    if len(args[0]) == 5:       # q, k and v in one
        batch, length, _, heads, size = args[0]
        return product([4, batch, heads, length, length, size])
    batch, queries, heads, size = args[0]
    keys, value_size = args[1][1], args[-1][-1]
    return product([2, batch, heads, queries, keys, total([size, value_size])])


def _batch_matmul(args: Sequence[Shape]) -> Size:
    return product([2, *args[-1], args[0][-1]])


TEMPLATES: dict[str, Callable[[Sequence[Shape]], Size]] = {
    "linear": _linear,
    "attention": _attention,
    "layernorm": lambda args: product([LAYER_NORM, *args[0]]),
    "rmsnorm": lambda args: product([RMS_NORM, *args[0]]),
    "softmax": lambda args: product([SOFTMAX, *args[-1]]),
    "batch_matmul": _batch_matmul,
    "lookup": lambda args: product(args[-1]),
}


def template_cost(kind: str, args: Sequence[relax.Expr]) -> Cost:
    """The cost of a call with these tensors, the last of which is the result."""
    shapes = [shape(arg) for arg in args]
    read = _looked_up(shapes) if kind == "lookup" else shapes
    moved = total([bytes_of(sizes, dtype(arg)) for sizes, arg in zip(read, args, strict=True)])
    return Cost(formula(TEMPLATES[kind](shapes)), formula(moved))


def _looked_up(shapes: Sequence[Shape]) -> list[Shape]:
    """Of the table and its scales, as many rows as there are numbers of rows."""
    ids, table, scale, out = shapes
    return [ids, [*ids, *table[1:]], [*ids, *scale[1:]], out]


# All other kernels


class LoopNest:
    """What is counted in a PrimFunc that has no schedule yet, in its own symbols."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        self._params = list(func.params)
        self._visits: dict[Any, list[Size]] = {param: [] for param in func.params}
        self._operations: list[Size] = []
        self._computed: set[tuple[int, bool, str]] = set()    # loops around, a float?, the dtype
        self._walk(func.body, [])

    @property
    def dtype(self) -> str | None:
        """What it computes in, where it loops most; None where it only moves numbers."""
        return max(self._computed)[-1] if self._computed else None

    def cost(self, args: Sequence[relax.Expr]) -> Cost:
        """The cost of a call with these arguments, as they stand in the Relax function."""
        sizes = sizes_of(self._params, args)
        moved = [
            bytes_of([_least(product(param.ty.shape), total(visits))], str(param.ty.dtype.dtype))
            for param, visits in self._visits.items() if visits
        ]
        return Cost(*(formula(put(total(each), sizes)) for each in (self._operations, moved)))

    def _walk(self, stmt: Any, extents: list[Size]) -> None:
        match stmt:
            case tirx.For():
                self._walk(stmt.body, [*extents, number(stmt.extent)])
            case tirx.SeqStmt():
                for each in stmt.seq:
                    self._walk(each, extents)
            case s_tir.SBlockRealize():
                self._walk(stmt.block.body, extents)
            case tirx.IfThenElse():
                for branch in filter(None, (stmt.then_case, stmt.else_case)):
                    self._walk(branch, extents)
            case _:
                self._count(stmt, extents)

    def _count(self, stmt: Any, extents: list[Size]) -> None:
        """What a statement without loops reads, writes and computes in loops of these `extents`."""
        found, times = 0, product(extents)

        def visit(node: Any) -> None:
            nonlocal found
            if isinstance(node, TensorLoad | tirx.BufferStore):
                tensor = node.source if isinstance(node, TensorLoad) else node.buffer
                if tensor in self._visits:
                    self._visits[tensor].append(times)
            elif _is_operation(node):
                found += 1
                self._computed.add((len(extents), True, str(node.ty)))
            elif isinstance(node, tirx.Mul) and all(map(_reads, (node.a, node.b))):
                self._computed.add((len(extents), False, str(node.ty)))

        tvm_ffi.structural_walk(stmt, visit)
        if found:
            self._operations.append(product([found, times]))


ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min)


def _is_operation(node: Any) -> bool:
    if not isinstance(node, (*ARITHMETIC, Call)) or not str(node.ty).startswith(("float", "bfl")):
        return False
    # A choice, as where a border is padded, computes nothing itself.
    return not isinstance(node, Call) or not _name(node).endswith("if_then_else")


def _reads(node: Any) -> bool:
    """Whether a tensor is read for it: other products of integers are places in one."""
    found = False

    def visit(inner: Any) -> None:
        nonlocal found
        found = found or isinstance(inner, TensorLoad)

    tvm_ffi.structural_walk(node, visit)
    return found


def _name(call: Call) -> str:
    return str(getattr(call.op, "name", ""))


# Sizes


def number(size: Any) -> Size:
    return int(size) if isinstance(size, tirx.IntImm) else size


def product(sizes: Sequence[Any]) -> Size:
    return reduce(lambda a, b: a * b, map(number, sizes), 1)


def total(sizes: Sequence[Size]) -> Size:
    return reduce(lambda a, b: a + b, sizes, 0)


def bytes_of(sizes: Sequence[Any], kind: str) -> Size:
    return product([*sizes, 1 if kind == "bool" else np.dtype(kind).itemsize])


def _least(first: Size, second: Size) -> Size:
    """The smaller one, by proof where there is one."""
    if isinstance(first, int) and isinstance(second, int):
        return min(first, second)
    analyzer = analyzer_of(first, second)
    if analyzer.can_prove(first <= second):
        return first
    return second if analyzer.can_prove(second <= first) else tirx.min(first, second)


def analyzer_of(*sizes: Size) -> Analyzer:
    """One that knows that dimensions are at least 1."""
    analyzer = Analyzer()

    def bind(node: Any) -> None:
        if isinstance(node, tirx.Var):
            analyzer.bind(node, ir.Range(1, LARGEST))

    for size in sizes:
        if not isinstance(size, int):
            tvm_ffi.structural_walk(size, bind)
    return analyzer


def sizes_of(params: Sequence[Any], args: Sequence[relax.Expr]) -> dict[Any, Any]:
    """The caller's size for each symbol in the shapes of a function's parameters."""
    sizes: dict[Any, Any] = {}
    for param, arg in zip(params, args, strict=False):
        if isinstance(arg.ty, relax.TensorType):
            pairs = zip(param.ty.shape, arg.ty.shape, strict=True)
            sizes |= {own: size for own, size in pairs if isinstance(own, tirx.Var)}
    return sizes


def put(size: Size, values: dict[Any, Any]) -> Size:
    """`size` with the caller's sizes in the place of its own."""
    if isinstance(size, int) or not values:
        return size
    return tvm_ffi.structural_map(size, (tirx.Var, lambda var: values.get(var, var)))


def formula(size: Size) -> Axis | None:
    """`size` as a manifest writes it; None where it is too complicated for that."""
    if isinstance(size, int):
        return size
    try:
        text = axis_of(analyzer_of(size).simplify(size))
        names_in(text)
    except BadDim:    # too complicated
        return None
    return text
