"""What a cost model sees of a point: its own fields, its workload's sizes, and how the two fit.

Nothing here knows a template: the columns follow from the dataclasses' fields, in their order, so
all points of one template for all workloads of one kind have the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from itertools import combinations
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from pocketformer.schedules.workloads import Workload


def point_numbers(point: Any) -> list[float]:
    """Each field as a number, sizes as their logarithm: steps between neighbours are alike."""
    return [_number(getattr(point, field.name)) for field in fields(point)]


def features(point: Any, workload: Workload, sizes: Mapping[str, int]) -> list[float]:
    """One row: fields, sizes, products of two fields, and for each size and field the steps of the
    field that the size takes and what of the last one is padding.

    `sizes` gives those that the workload leaves open.
    """
    own = {f.name: getattr(point, f.name) for f in fields(point)}
    given = {f.name: getattr(workload, f.name) for f in fields(workload)}
    given |= {name: size for name, size in sizes.items() if given.get(name) is None}
    row = [_number(value) for value in (*own.values(), *given.values())]
    steps = [value for name, value in own.items() if _is_size(point, name)]
    row += [math.log2(1 + a) + math.log2(1 + b) for a, b in combinations(steps, 2)]
    for name, size in given.items():
        if _is_size(workload, name):
            row += [each for step in steps for each in _fit(size, step)]
    return row


def _fit(size: Any, step: int) -> tuple[float, float]:
    if not size or not step:
        return 0.0, 0.0
    count = -(-size // step)
    return math.log2(count), count * step / size


def _is_size(value: Any, name: str) -> bool:
    """Whether a field counts something, by its annotation: `None` and False must not hide one."""
    annotation = str(type(value).__dataclass_fields__[name].type)
    return annotation.replace(" ", "") in ("int", "int|None")


def _number(value: Any) -> float:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return math.copysign(math.log2(1 + abs(value)), value)
    # A tree asks only whether two are the same.
    return float(crc32(repr(value).encode()) % 1021)
