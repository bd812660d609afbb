"""Where tensors lie in one arena: those that live at the same time never overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tvm import ir, tirx
from tvm.sym import Analyzer

from pocketformer.passes.graph import Size

ALIGNMENT = 64      # bytes: a cache line, and the longest vector
ELEMENTS = 16       # that many of 4 bytes are a line
WIDE = 1024         # bytes: to round these up to a line adds 6 % at most


@dataclass(frozen=True)
class Life:
    """`size` units, needed from the `first` to the `last` of all steps."""

    size: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether both are needed in one step."""
        return self.first <= other.last and other.first <= self.last


def place(lives: Sequence[Life]) -> tuple[list[int], int]:
    """An offset for each of `lives`, and how much they take in all.

    Each in turn takes the lowest gap among those that it meets; of several orders the best result
    counts. The largest first is the usual good one (Pisarchyk and Lee, "Efficient memory management
    for deep neural net inference", 2020).
    """
    orders: tuple[Callable[[int], Any], ...] = (
        lambda i: (-lives[i].size, lives[i].first),
        lambda i: (lives[i].first, -lives[i].size),
        lambda i: (-lives[i].size * (lives[i].last - lives[i].first + 1), lives[i].first),
    )
    numbers = range(len(lives))
    return min((_in_order(lives, sorted(numbers, key=order)) for order in orders),
               key=lambda found: found[1])


def _in_order(lives: Sequence[Life], order: Iterable[int]) -> tuple[list[int], int]:
    offsets = [0] * len(lives)
    placed: list[int] = []
    for number in order:
        life, offset = lives[number], 0
        taken = ((offsets[p], lives[p].size) for p in placed if lives[p].meets(life))
        for begin, size in sorted(taken):
            if begin - offset >= life.size:
                break
            offset = max(offset, begin + size)
        offsets[number] = offset
        placed.append(number)
    return offsets, max((offsets[i] + lives[i].size for i in placed), default=0)


@dataclass(frozen=True)
class Bytes:
    """`count` times `unit`, which is 1 where all sizes are known or have an upper limit."""

    count: int
    unit: Size = 1

    @property
    def wide(self) -> bool:
        """Whether `count` rounded up is still about as much; else `unit` has to be rounded."""
        return isinstance(self.unit, int) or self.count % ALIGNMENT == 0 or self.count >= WIDE

    @property
    def rounded(self) -> int:
        """`count`, so that `rounded * step` is aligned."""
        grain = ALIGNMENT if self.wide else ALIGNMENT // ELEMENTS
        return -(-self.count // grain) * grain

    @property
    def step(self) -> Size:
        """What one of `rounded` takes in the arena."""
        if self.wide:
            return self.unit
        return tirx.floordiv(self.unit + (ELEMENTS - 1), ELEMENTS) * ELEMENTS

    @property
    def part(self) -> str:
        """Equal for what can share a part of the arena: multiples of the same step."""
        return str(self.step)


def bytes_of(sizes: Iterable[Any], itemsize: int, limits: Mapping[str, int]) -> Bytes:
    """The bytes of a tensor; dimensions that have an upper limit count with that."""
    count, unknown = itemsize, []
    for factor in _factors(sizes):
        if isinstance(factor, int):
            count *= factor
        elif (most := _most(factor, limits)) is not None:
            count *= most
        else:
            unknown.append(factor)
    unknown.sort(key=str)
    return Bytes(count, reduce(lambda a, b: a * b, unknown)) if unknown else Bytes(count)


def _factors(sizes: Iterable[Any]) -> Iterable[Size]:
    for size in sizes:
        whole = size if isinstance(size, int) else Analyzer().simplify(size)
        if isinstance(whole, tirx.Mul):
            yield from _factors([whole.a, whole.b])
        elif isinstance(whole, tirx.IntImm):
            yield int(whole)
        else:
            yield whole


def _most(size: Any, limits: Mapping[str, int]) -> int | None:
    """The greatest value of `size`, if every dimension in it has a limit."""
    names = tirx.analysis.undefined_vars(size) if not isinstance(size, ir.Var) else [size]
    if any(str(var.name) not in limits for var in names):
        return None
    analyzer = Analyzer()
    for var in names:
        analyzer.bind(var, ir.Range(0, limits[str(var.name)] + 1))
    return int(analyzer.const_int_bound(size).max_value)
