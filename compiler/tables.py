"""What tables for people are made of: rows, and numbers in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pocketformer.compiler.model import Axis


def human_bytes(count: float) -> str:
    """`count` bytes in decimal units with three digits: 86.7 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"


def plain_table(*headers: str) -> Table:
    """A table without lines, to be filled."""
    table = Table(title_justify="left", box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header)
    return table


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """What is known about one thing, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, escape(value))
    return table


def axis_bytes(size: Axis | None) -> str:
    """A number of bytes, or a formula of one."""
    if size is None:
        return "unknown"
    return human_bytes(size) if isinstance(size, int) else f"{size} bytes"


def counted(kinds: Iterable[str]) -> str:
    """Each of `kinds` with how often it occurs, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())
