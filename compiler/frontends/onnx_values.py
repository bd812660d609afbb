"""What an edge of an ONNX graph can hold: numbers, symbolic integers, or a Relax expression."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from tvm import ir, relax, tirx
from tvm.sym import Analyzer, ConstIntBound

from pocketformer.compiler.errors import BadModel
from pocketformer.compiler.model import Dim

Size = Any    # int | tirx expression of symbolic dimensions

# A longer size expression is no shape arithmetic of a real model, and TVM simplifies recursively.
LONGEST_EXPRESSION = 400


@dataclass(frozen=True, eq=False)
class Symbolic:
    """Integers or booleans that follow from the sizes of the inputs.

    `array` is an object array of ints, bools and tirx expressions; `dtype` is the ONNX one.
    """

    array: np.ndarray
    dtype: str


Value: TypeAlias = np.ndarray | Symbolic | relax.Expr


def object_array(elements: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """An object array that never looks inside its elements, as np.array would."""
    flat = np.empty(len(elements), dtype=object)
    for index, element in enumerate(elements):
        flat[index] = element
    return flat.reshape(shape)


class MustBeEqual(Exception):
    """The dimension `name` has to be `other`, another dimension or a number."""

    def __init__(self, name: str, other: str | int) -> None:
        super().__init__(f"dimension {name!r} has to be {other}")
        self.name, self.other = name, other


class Solver:
    """Exact arithmetic on sizes, given the ranges of the symbolic dimensions."""

    def __init__(self) -> None:
        self._analyzer = Analyzer()
        self._vars: dict[str, ir.Var] = {}
        self._dims: dict[str, Dim] = {}

    @property
    def dims(self) -> dict[str, Dim]:
        """The symbolic dimensions by name, with all limits that the model turned out to have."""
        return dict(self._dims)

    def declare(self, name: str, dim: Dim) -> ir.Var:
        """A new symbolic dimension."""
        self._vars[name] = tirx.Var(name, "int64")
        self._limit(name, dim)
        return self._vars[name]

    def _limit(self, name: str, dim: Dim) -> None:
        high = ConstIntBound.POS_INF if dim.high is None else dim.high
        self._analyzer.update(self._vars[name], ConstIntBound(dim.low, high), True)
        self._dims[name] = dim

    def lower_ceiling(self, size: Size, high: int) -> None:
        """Learn that `size` is at most `high`, if it is a dimension or one plus a number."""
        for name, var in self._vars.items():
            offset = None if isinstance(size, int) else self.simplify(size - var)
            dim = self._dims[name]
            if not isinstance(offset, int) or high - offset < dim.low:
                continue
            if dim.high is None or high - offset < dim.high:
                buckets = tuple(bucket for bucket in dim.buckets if bucket <= high - offset)
                self._limit(name, Dim(dim.low, high - offset, buckets))

    def unify(self, a: Size, b: Size) -> None:
        """Raise MustBeEqual where `a` or `b` is a dimension and the other one or a number."""
        for one, other in ((a, b), (b, a)):
            if isinstance(one, ir.Var) and isinstance(other, (int, ir.Var)):
                raise MustBeEqual(one.name, other if isinstance(other, int) else other.name)

    def simplify(self, size: Size) -> Size:
        """The same number, as a Python int or bool where it is known."""
        if isinstance(size, (bool, int, np.integer, np.bool_)):
            return size if isinstance(size, bool) else int(size)
        if _length(size, LONGEST_EXPRESSION) <= 0:
            raise BadModel("the arithmetic on its sizes is too long")
        size = self._analyzer.simplify(size)
        if isinstance(size, tirx.IntImm):
            return bool(size.value) if str(size.ty) == "bool" else int(size.value)
        return size

    def proves(self, condition: Any) -> bool:
        """Whether `condition` holds for all allowed sizes."""
        return self.simplify(condition) is True

    def equal(self, a: Size, b: Size) -> bool:
        """Whether two sizes are the same for all allowed values of the dimensions."""
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return self.simplify(a - b) == 0 if a is not b else True

    def product(self, sizes: Sequence[Size]) -> Size:
        return self.simplify(math.prod(sizes))

    def quotient(self, a: Size, b: Size) -> Size:
        """Division that rounds towards zero, as ONNX divides integers."""
        if isinstance(b, int) and b == 0:
            raise BadModel("it divides a size by zero")
        if isinstance(a, int) and isinstance(b, int):
            return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        if self.proves(self.at_least(a, 0)) and self.proves(self.at_least(b, 0)):
            return self.simplify(a // b)
        return self.simplify(tirx.truncdiv(_prim(a), _prim(b)))

    def remainder(self, a: Size, b: Size) -> Size:
        """The remainder whose sign is that of the divisor."""
        if isinstance(b, int) and b == 0:
            raise BadModel("it divides a size by zero")
        return self.simplify(a % b)

    def minimum(self, a: Size, b: Size) -> Size:
        both_known = isinstance(a, int) and isinstance(b, int)
        return min(a, b) if both_known else self.simplify(tirx.min(_prim(a), _prim(b)))

    def maximum(self, a: Size, b: Size) -> Size:
        both_known = isinstance(a, int) and isinstance(b, int)
        return max(a, b) if both_known else self.simplify(tirx.max(_prim(a), _prim(b)))

    def choose(self, condition: Any, a: Size, b: Size) -> Size:
        """`a` where `condition` holds, else `b`."""
        condition = self.simplify(condition)
        if isinstance(condition, (bool, int)):
            return a if condition else b
        return self.simplify(tirx.Select(condition, _prim(a), _prim(b)))

    def compare(self, kind: Callable[..., Any], a: Size, b: Size) -> Any:
        """`kind` is one of tirx's comparison nodes, such as tirx.LT."""
        return self.simplify(kind(_prim(a), _prim(b)))

    def at_least(self, a: Size, b: Size) -> Any:
        return self.compare(tirx.GE, a, b)


def _prim(size: Size) -> Any:
    if isinstance(size, bool):
        return tirx.const(size, "bool")
    return tirx.const(int(size), "int64") if isinstance(size, (int, np.integer)) else size


def _length(expr: Any, budget: int) -> int:
    """What is left of `budget` after one for every node of `expr`; it stops where that is gone."""
    stack = [expr]
    while stack and budget > 0:
        budget -= 1
        node = stack.pop()
        for field in ("a", "b", "condition", "true_value", "false_value"):
            child = getattr(node, field, None)
            if child is not None and not isinstance(child, (int, bool)):
                stack.append(child)
    return budget
