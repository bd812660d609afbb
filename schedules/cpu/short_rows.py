"""Rows of results in few bits: by a factor of each column, or by each row's own range."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.kernel import Buffer, Builder, Expr, load, splat, store
from pocketformer.schedules.cpu.rows import Row
from pocketformer.schedules.cpu.short_stores import Integers, RowScale, bfloat16

Values: TypeAlias = Callable[[Expr, int], Expr]     # of a row: start, lanes


@dataclass(frozen=True)
class Short(ABC):
    """Where a short result is stored."""

    stored: Buffer

    @abstractmethod
    def write(self, walk: Row, row: Expr, first: Values, again: Values) -> None:
        """Store a row, whose numbers `first` computes and `again` gives once more."""


class _BFloat16(Short):
    def write(self, walk: Row, row: Expr, first: Values, again: Values) -> None:
        walk.sweep(lambda at, lanes, _way: store(
            self.stored, bfloat16(first(at, lanes)), row, at))


@dataclass(frozen=True)
class _Int8(Short):
    factor: Buffer
    zero: Buffer

    def write(self, walk: Row, row: Expr, first: Values, again: Values) -> None:
        to_int8 = Integers.of(T.bind(self.zero[0]))
        walk.sweep(lambda at, lanes, _way: store(
            self.stored, to_int8(first(at, lanes) * load(self.factor, at, lanes=lanes)), row, at))


@dataclass(frozen=True)
class _ByRow(Short):
    """Affine: the range, with 0 in it, becomes that of int8."""

    factor: Buffer
    scale: Buffer
    zero: Buffer

    def write(self, walk: Row, row: Expr, first: Values, again: Values) -> None:
        def times_factor(values: Values, at: Expr, lanes: int) -> Expr:
            return values(at, lanes) * load(self.factor, at, lanes=lanes)

        low, high = walk.extremes(lambda at, lanes: times_factor(first, at, lanes))
        found = RowScale.of(low, high)
        T.buffer_store(self.scale, found.scale, [row])
        T.buffer_store(self.zero, found.zero, [row])
        to_int8 = Integers.of(found.zero)
        walk.sweep(lambda at, lanes, _way: store(
            self.stored, to_int8(times_factor(again, at, lanes) * splat(found.steps, lanes)),
            row, at))


def short_inputs(function: Builder, kind: str, size: int) -> list[Buffer]:
    """The next arguments: factor[size] for int8 and rows, then zero[1] for int8."""
    inputs = []
    if kind in ("int8", "rows"):
        inputs.append(function.argument("factor", (size,)))
    if kind == "int8":
        inputs.append(function.argument("zero", (1,), "int32"))
    return inputs


def short_outputs(
    function: Builder, kind: str, shape: tuple[Expr, int], inputs: list[Buffer]
) -> Short | None:
    """The next arguments: what is stored, and for rows each one's scale and zero; None for ''."""
    if not kind:
        return None
    stored = function.argument("stored", shape, "int8" if kind == "rows" else kind)
    if kind == "bfloat16":
        return _BFloat16(stored)
    factor, *zero = inputs
    if kind == "int8":
        return _Int8(stored, factor, zero[0])
    scale = function.argument("scale", shape[:1])
    return _ByRow(stored, factor, scale, function.argument("row_zero", shape[:1], "int32"))
