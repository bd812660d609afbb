"""A job: some points of one workload's space, to be built into one bundle and measured together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketformer.schedules.workloads import Workload
    from pocketformer.targets import Target

MOST_POINTS = 8     # of a job: they are all timed in turns, and one that fails spoils the others
SLACK = 96 << 20    # bytes that a device can spare for weights which nobody reads twice


def name_at(workload: Workload, sizes: Iterable[tuple[str, int]]) -> str:
    """What people see of a task: the workload, with the sizes that it leaves open after an @."""
    told = ",".join(f"{name}={size}" for name, size in sorted(sizes))
    return f"{workload}@{told}" if told else str(workload)


@dataclass(frozen=True)
class Job:
    """Up to MOST_POINTS points of `workload`; the first is the reference of the others.

    `target` has no levels. `sizes` are those of the workload's symbolic axes, by the names that its
    kernels give them, empty where all are known. Weights are read again only after `cold_bytes`
    of others, as in a model; see `cold_bytes`. A call of the reference takes about `call_us`
    microseconds, 0 where nobody knows yet: what takes long is called less often in a run.
    """

    target: Target
    workload: Workload
    sizes: tuple[tuple[str, int], ...]
    points: tuple[Any, ...]
    cold_bytes: int = 0
    call_us: float = 0.0

    def __post_init__(self) -> None:
        assert 1 <= len(self.points) <= MOST_POINTS, len(self.points)
        assert not self.target.levels, self.target.name

    def split(self) -> Iterator[Job]:
        """A job for each point alone, beside the reference: the first of the reference alone."""
        yield replace(self, points=self.points[:1])
        for point in self.points[1:]:
            yield replace(self, points=(self.points[0], point))


def cold_bytes(target: Target, weights: int, threads: int | None = None) -> int:
    """How many bytes of weights a model reads between two reads of the same.

    `weights` are the bytes of all weights of the model. Beyond twice the caches more makes no
    difference.
    """
    caches = target.l3 + (threads or target.threads) * target.l2
    return min(weights, 2 * caches, SLACK)
