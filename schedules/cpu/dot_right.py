"""The right factor of a product of short numbers: the weights of a strip, step by step of k.

All instructions of an architecture read the same words, of each column a group of k. One for
matrices takes two groups of two columns at a time, so that the words of two groups are interleaved:
in registers, or once for all tiles of a strip where these are several.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    ceil_div,
    load,
    loop,
    splat,
    store,
    workspace,
)
from pocketformer.schedules.cpu.packing import part_of_panel
from pocketformer.schedules.cpu.tiles import hidden

SEVERAL = 8     # tiles: making a copy costs what interleaving does for three to six of them
ORDER = [0, 4, 1, 5, 2, 6, 3, 7]    # words of two vectors, interleaved
NEVER = 1 << 40                     # strips

Read = Callable[[Expr, bool], list[list[Expr]]]     # step, whole -> factors [vector][part]


def right_of(dot: Dot, weight: Buffer, columns: int, ahead: int, tiles: int) -> Right:
    """How `dot` takes strips of `columns` of weight[panel, group of k, column], each for `tiles`
    tiles; what lies `ahead` groups behind is asked for."""
    if not dot.matrix:
        return Right(dot, weight, columns, ahead)
    return (_Copied if tiles >= SEVERAL else _Interleaved)(dot, weight, columns, ahead)


class Right:
    """Words where they lie."""

    def __init__(self, dot: Dot, weight: Buffer, columns: int, ahead: int) -> None:
        self.dot, self.weight, self.columns, self.ahead = dot, weight, columns, ahead
        groups = int(weight.shape[1])
        self.steps, self.full = int(ceil_div(groups, dot.depth)), groups // dot.depth

    @property
    def whole(self) -> int:
        """How many steps, from the first on, need no zeros."""
        return self.full

    def begin(self, strip: Expr) -> None:
        """Get ready for the tiles of a strip."""

    def reader(self, strip: Expr) -> Read:
        """What gives the factors of a step."""
        panel, start = self._place(strip)
        return lambda step, whole: self._factors(panel, start, step, whole)

    def _place(self, strip: Expr) -> tuple[Expr, Expr]:
        return part_of_panel(strip, self.columns, int(self.weight.shape[2]))

    def _factors(self, panel: Expr, start: Expr, step: Expr, whole: bool) -> list[list[Expr]]:
        words = self._words(panel, start, step)
        factors = [self.dot.right(word) for word in words]
        return [parts if len(parts) == 1 else [T.bind(part) for part in parts]
                for parts in factors]

    def _words(self, panel: Expr, start: Expr, group: Expr) -> list[Expr]:
        """Vectors of a group of k."""
        words = [load(self.weight, panel, group, start + column, lanes=self.dot.lanes)
                 for column in range(0, self.columns, self.dot.lanes)]
        if self.ahead:
            prefetch.prefetch(self.weight, panel, group, start, self.columns, self.ahead)
        return words


class _Interleaved(Right):
    """Matrices, each of the words of two groups of k of two columns."""

    def _factors(self, panel: Expr, start: Expr, step: Expr, whole: bool) -> list[list[Expr]]:
        return [[T.bind(tirx.Shuffle(pair, order))]
                for pair in self._pairs(panel, start, step, whole)
                for order in (ORDER[:4], ORDER[4:])]

    def _pairs(self, panel: Expr, start: Expr, step: Expr, whole: bool) -> list[list[Expr]]:
        """Vectors of the two groups of a step; of what is not there, zeros."""
        low = self._words(panel, start, step * 2)
        nothing = splat(tirx.const(0, self.dot.held), self.dot.lanes)
        high = self._words(panel, start, step * 2 + 1) if whole else [nothing] * len(low)
        return [[T.bind(word) for word in pair] for pair in zip(low, high, strict=True)]


class _Copied(_Interleaved):
    """The same matrices, which the tiles of a strip find in memory."""

    @property
    def whole(self) -> int:
        return self.steps

    def begin(self, strip: Expr) -> None:
        self.copy = workspace(self.steps, 2 * self.columns, dtype=self.dot.held)
        panel, start = self._place(strip)

        def put(step: Expr, whole: bool) -> None:
            for number, pair in enumerate(self._pairs(panel, start, step, whole)):
                store(self.copy, tirx.Shuffle(pair, ORDER), step, number * len(ORDER))

        with loop(self.full) as step:
            put(step, True)
        if self.full < self.steps:
            put(self.full, False)

    def reader(self, strip: Expr) -> Read:
        # LLVM would count from the end of a copy, and load no two vectors at once, if it knew that
        # this is 0.
        first = hidden(hidden(strip) // NEVER)
        return lambda step, _: [[load(self.copy, first + step, at, lanes=self.dot.lanes)]
                                for at in range(0, 2 * self.columns, self.dot.lanes)]
