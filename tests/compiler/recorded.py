"""Records as a tuner would write them, with times of one's choice."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.model import Model
from pocketformer.compiler.recipe import Float32, Recipe
from pocketformer.compiler.tuning.points import Point, points_of
from pocketformer.compiler.tuning.record import Record
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.tasks import tasks_of
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target


def record(workload: Workload, point: Point, target: Target, ratio: float, **other: Any) -> Record:
    """`point` takes `ratio` of the default point's time on the processor of `target`."""
    return Record(**{
        "workload": workload,
        "point": point,
        "sizes": {},
        "target": target.name,
        "core": target.cores[0].mcpu,
        "threads": target.threads,
        "source": "measured",
        "median_us": 100 * ratio,
        "default_us": 100.0,
        "spread": 0.01,
        "runs": 32,
        "device": None,
        "tvm": version_of("apache-tvm"),
        "pocketformer": "0.2.0",
        "time": "2026-11-21T12:00:00Z",
        **other,
    })


def random_records(
    model: Model, variants: Iterable[Target], seed: int, recipe: Recipe | None = None,
    points: int = 6,
) -> Records:
    """For all that there is to tune in `model`, random points of its space with random times."""
    chance = random.Random(seed)
    found = []
    for target in variants:
        for task in tasks_of(model, target, recipe or Float32(), {}):
            space = points_of(task.workload, target)
            for point in chance.sample(space, min(points, len(space))):
                ratio = chance.uniform(0.5, 1.2)
                found.append(record(task.workload, point, target, ratio, sizes=dict(task.sizes)))
    return Records(tuple(found))
