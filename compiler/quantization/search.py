"""The fewest layers in higher precision that keep the answers: guess, narrow, give back."""

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
        it sets the order, and where to look. Only what was measured counts.
        """
        order = sorted(noise, key=lambda name: -noise[name])
        try:
            if not self._holds(frozenset()):
                self._narrow(order, [noise[name] for name in order])
                # With a misleading order no part of it suffices; all layers may still do.
                kept = self._best(len(order)) or frozenset(order)
                if self._holds(kept):
                    self._give_back(kept, [name for name in reversed(order) if name in kept], noise)
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
        """Finds how many of the first layers of `order` suffice, if fewer than all.

        Begins where the noise says, goes on from there in steps that double, and bisects.
        """
        few, enough, step = 0, len(order), 1
        size = _expected(noise, self.tried[frozenset()], self.limit)
        while enough - few > 1:
            size = min(max(size, few + 1), enough - 1)
            if self._holds(frozenset(order[:size])):
                enough = size
            else:
                few = size
            if few == 0 or enough == len(order):
                size += step if few else -step
                step *= 2
            else:
                size = (few + enough) // 2

    def _give_back(
        self,
        kept: frozenset[str],
        group: Sequence[str],
        noise: Mapping[str, float],
        needed: bool = False,
    ) -> frozenset[str]:
        """What is left of `kept` without those of `group` that need not be in it.

        The first of `group` are the least sensitive; where it is `needed`, it is known that they
        cannot all go.
        """
        if not needed and not self._hopeless(kept, group, noise) and self._holds(kept - {*group}):
            return kept - {*group}
        if len(group) == 1:
            return kept
        half = len(group) // 2
        left = self._give_back(kept, group[:half], noise)
        known = needed and left == kept - {*group[:half]}
        return self._give_back(left, group[half:], noise, known)

    def _hopeless(
        self, kept: frozenset[str], group: Sequence[str], noise: Mapping[str, float]
    ) -> bool:
        """Whether the limit is passed without `group` even if that costs half of what is expected.

        What it costs is expected to be its share of all noise, as a part of the whole drop.
        """
        share = sum(noise[name] for name in group) / (sum(noise.values()) or 1.0)
        cost = share * self.tried[frozenset()]
        return isfinite(cost) and self.tried[kept] + cost / 2 > self.limit

    def _best(self, layers: int) -> frozenset[str] | None:
        """The fewest layers that held, less than all; of as many those with the least drop."""
        held = [
            kept for kept, drop in self.tried.items() if drop <= self.limit and len(kept) < layers
        ]
        return min(held, key=lambda kept: (len(kept), self.tried[kept]), default=None)


def _expected(noise: Sequence[float], drop: float, limit: float) -> int:
    """How many layers to keep so that what is left of the noise is as small as the limit asks.

    The drop is taken to be proportional to the noise that is left, and is `drop` for all of it.
    """
    left = sum(noise)
    if not (isfinite(drop) and isfinite(left) and left > 0):
        return len(noise) // 2
    wanted, size = left * limit / drop, 0
    while size < len(noise) and left > wanted:
        left -= noise[size]
        size += 1
    return size
