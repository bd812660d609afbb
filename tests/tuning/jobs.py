"""Small jobs for the tests of what builds and measures them."""

from collections.abc import Mapping

from pocketformer import targets
from pocketformer.compiler.tuning.job import Job
from pocketformer.schedules.cpu import template_of
from pocketformer.schedules.workloads import Workload

HOST = targets.load("host").variants[-1]


def job_of(
    workload: Workload, points: int = 2, cold_bytes: int = 0, sizes: Mapping[str, int] | None = None
) -> Job:
    """The default point and `points - 1` others from all over the space."""
    space = list(dict.fromkeys(template_of(workload).space(HOST, workload)))
    others = space[1 :: max(1, (len(space) - 1) // max(1, points - 1))]
    chosen = (space[0], *others)[:points]
    return Job(HOST, workload, tuple((sizes or {}).items()), chosen, cold_bytes)
