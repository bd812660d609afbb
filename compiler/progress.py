"""How long work tells of itself: with a step's name, and the share of all that is done."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]


def silent(step: str, fraction: float) -> None:
    """A Progress that nobody hears."""
