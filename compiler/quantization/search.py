"""The fewest layers in higher precision that keep the answers: guess, bisect, give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

Measure = Callable[[frozenset[str]], float]    # the drop where these layers are kept


class OutOfTrials(Exception):
    """As many choices were measured as are allowed."""


@dataclass
class Search:
    """Measures the drop for layers that are kept in higher precision, each choice once.

    `measure` tells the drop, which may be at most `limit`; `tried` has all choices in the order in
    which they were measured, `trials` is how many they may be.
    """

    measure: Measure
    limit: float
    trials: int
    tried: dict[frozenset[str], float] = field(default_factory=dict)

    def fewest(self, noise: Mapping[str, float]) -> frozenset[str] | None:
        """The layers to keep, as few as were found; None where no proper part of them suffices.

        `noise` estimates of every quantised layer how much it takes from the answers, in any unit:
        it sets the order, and where to look first. Only what was measured counts.
        """
        order = sorted(noise, key=lambda name: -noise[name])
        try:
            if not self._holds(frozenset()):
                self._narrow(order, [noise[name] for name in order])
                # With a misleading order no part of it suffices; all layers may still do.
                kept = self._best(len(order)) or frozenset(order)
                if self._holds(kept):
                    self._give_back(kept, [name for name in reversed(order) if name in kept])
        except OutOfTrials:
            pass
        return self._best(len(order))

    def _holds(self, kept: frozenset[str]) -> bool:
        """Whether the drop stays within the limit. Raises OutOfTrials."""
        if kept not in self.tried:
            if len(self.tried) >= self.trials:
                raise OutOfTrials
            self.tried[kept] = self.measure(kept)
        return self.tried[kept] <= self.limit

    def _narrow(self, order: Sequence[str], noise: Sequence[float]) -> None:
        """Finds how many of the first layers of `order` suffice, if fewer than all."""
        few, enough = 0, len(order)
        guess = True
        while enough - few > 1:
            middle = (few + enough) // 2
            drop = self.tried[frozenset(order[:few])]
            size = _expected(noise, few, drop, self.limit) if guess else middle
            size = min(max(size, few + 1), enough - 1)
            guess = not guess    # a guess may err by one layer each time, halves do not
            if self._holds(frozenset(order[:size])):
                enough = size
            else:
                few = size

    def _give_back(
        self, kept: frozenset[str], group: Sequence[str], needed: bool = False
    ) -> frozenset[str]:
        """What is left of `kept` without those of `group` that need not be in it.

        The first of `group` are the least sensitive; where it is `needed`, it is known that they
        cannot all go.
        """
        if not needed and self._holds(kept - {*group}):
            return kept - {*group}
        if len(group) == 1:
            return kept
        half = len(group) // 2
        left = self._give_back(kept, group[:half])
        return self._give_back(left, group[half:], needed=left == kept - {*group[:half]})

    def _best(self, layers: int) -> frozenset[str] | None:
        """The fewest layers that held, less than all; of as many those with the least drop."""
        held = [
            kept for kept, drop in self.tried.items() if drop <= self.limit and len(kept) < layers
        ]
        return min(held, key=lambda kept: (len(kept), self.tried[kept]), default=None)


def _expected(noise: Sequence[float], few: int, drop: float, limit: float) -> int:
    """How many layers to keep so that what is left of the noise is as small as the limit asks.

    The drop is taken to be proportional to the noise that is left, and is `drop` for `few` layers.
    """
    left = sum(noise[few:])
    if not (isfinite(drop) and isfinite(left) and left > 0):
        return (few + len(noise)) // 2
    wanted = left * limit / drop
    size = few
    while size < len(noise) and left > wanted:
        left -= noise[size]
        size += 1
    return size
