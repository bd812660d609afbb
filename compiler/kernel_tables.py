"""The operators and kernels of a bundle as tables for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pocketformer.compiler.tables import axis_bytes, counted, plain_table

if TYPE_CHECKING:
    from pocketformer.compiler.manifest import Manifest
    from pocketformer.compiler.manifest_records import OperatorRecord
    from pocketformer.compiler.model import Axis


def kernel_table(manifest: Manifest) -> Table:
    """The kernels, and what one call of each takes at most beside its tensors."""
    table = plain_table("kernel", "operators", "scratch", "and a thread")
    scratch: dict[str, list[tuple[Axis | None, Axis | None]]] = {}
    for call in manifest.kernels:
        scratch.setdefault(call.function, []).append((call.scratch, call.thread_scratch))
    counts = Counter(record.kernel for record in manifest.operators if record.kernel)
    for kernel, count in counts.most_common():
        sizes = (_largest(column) for column in zip(*scratch.get(kernel, []), strict=True))
        table.add_row(escape(kernel), str(count), *sizes)
    return table


def _largest(sizes: Sequence[Axis | None]) -> str:
    """The largest number; a formula where there is one."""
    numbers = [size for size in sizes if isinstance(size, int)]
    formulas = [size for size in sizes if isinstance(size, str)]
    largest = formulas[0] if formulas else max(numbers, default=0)
    return axis_bytes(largest) if largest else ""


def operator_table(records: Sequence[OperatorRecord]) -> Table:
    """One row for the operators that differ in the numbers of their names alone, such as layers.

    At the end, one row for all the operators that need no kernel for the same reason.
    """
    groups: dict[tuple[str, ...], list[OperatorRecord]] = {}
    without: dict[str, list[OperatorRecord]] = {}
    for record in records:
        if record.kernel is None:
            without.setdefault(record.note, []).append(record)
        else:
            pattern = re.sub(r"\d+", "#", record.name)
            key = (pattern, record.kind, record.precision, record.kernel, record.note)
            groups.setdefault(key, []).append(record)
    table = plain_table("operators", "kind", "count", "precision", "kernel", "note")
    for (_, kind, precision, kernel, note), members in groups.items():
        names = _merge([record.name for record in members])
        texts = (names, kind, str(len(members)), precision, kernel)
        table.add_row(*(Text(text, overflow="fold") for text in texts), Text(note))
    for note, members in without.items():
        kinds = counted(record.kind for record in members)
        table.add_row(Text(kinds), "", str(len(members)), "", "none", Text(note))
    return table


def _merge(names: Sequence[str]) -> str:
    """`layer.0/q`, `layer.1/q`, `layer.2/q` as `layer.{0-2}/q`."""
    pieces = [re.split(r"(\d+)", name) for name in names]
    merged = []
    for column in zip(*pieces, strict=True):
        if len(set(column)) == 1:
            merged.append(column[0])
        else:
            numbers = sorted(map(int, column))
            merged.append(f"{{{numbers[0]}-{numbers[-1]}}}")
    return "".join(merged)
