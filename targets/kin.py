"""Which processors are alike: what is fast on one is a good guess for the others of its family."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).parent / "kin.toml"


@cache
def families() -> tuple[tuple[str, ...], ...]:
    """The cores of each family."""
    with FILE.open("rb") as file:
        return tuple(tuple(family["cores"]) for family in tomllib.load(file)["families"])


def kin(core: str) -> tuple[str, ...]:
    """The processors of the family of `core`, by LLVM's names, and `core` itself: it comes first.

    A processor of no family has no kin but itself.
    """
    family = next((family for family in families() if core in family), ())
    return (core, *(other for other in family if other != core))


def core_named(told: str) -> str:
    """LLVM's name of a core that a device calls `told` ("Cortex-A76"), "" for one of no family."""
    name = told.lower()
    return name if any(name in family for family in families()) else ""
