"""How long work tells of itself: with a step's name, and the share of all that is done."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]


def silent(step: str, fraction: float) -> None:
    """A Progress that nobody hears."""


def part_of(tell: Progress, low: float, high: float) -> Progress:
    """For work that is the part from `low` to `high` of what `tell` hears of."""

    def told(step: str, fraction: float) -> None:
        tell(step, low + (high - low) * fraction)

    return told
