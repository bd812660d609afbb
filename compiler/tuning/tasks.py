"""What there is to tune in a model: its distinct workloads, at the sizes that they will have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from pocketformer.compiler.axes import evaluate, names_in
from pocketformer.compiler.entries import entries_of
from pocketformer.compiler.example_inputs import pick_sizes
from pocketformer.compiler.model import Model
from pocketformer.compiler.pipeline import FLOAT, run, shared
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.recipe import Recipe
from pocketformer.compiler.tuning.job import name_at
from pocketformer.compiler.tuning.survey import Use, survey
from pocketformer.schedules.cpu import template_of
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target


@dataclass(frozen=True)
class Task:
    """A workload to tune.

    `sizes` are those of its kernel's symbolic axes, () where all are known; `calls` is how often it
    is called when every entry of the model runs once.
    """

    workload: Workload
    sizes: tuple[tuple[str, int], ...]
    calls: int

    @property
    def key(self) -> str:
        """Its name in tables."""
        return name_at(self.workload, self.sizes)


def tasks_of(
    model: Model,
    target: Target,
    recipe: Recipe,
    sizes: Mapping[str, str | int],
    quantization: Quantization = FLOAT,
) -> list[Task]:
    """The tasks of `model` on `target`, a single level, in the order of their first calls.

    `sizes` are those of the model's dimensions; the others get what `pick_sizes` gives them.
    Left out are workloads that no template of `target` computes, or all in the same way, and those
    whose sizes depend on more than the model's dimensions. Raises BadDim for a dimension that the
    model lacks, or a size that it does not allow.
    """
    picked = pick_sizes(model.dims, sizes)
    module, fixed = entries_of(model)
    calls: Counter[tuple[Workload, tuple[tuple[str, int], ...]]] = Counter()
    for use in survey(run(module, shared(recipe, quantization), target)):
        at = _evaluated(use, picked | fixed[use.entry])
        if at is not None and _has_choices(use.workload, target):
            calls[use.workload, at] += 1
    return [Task(workload, at, count) for (workload, at), count in calls.items()]


def _evaluated(use: Use, known: Mapping[str, int]) -> tuple[tuple[str, int], ...] | None:
    """The sizes of a use; None where they depend on more than the dimensions."""
    if use.sizes is None or any(names_in(size) - known.keys() for _, size in use.sizes):
        return None
    return tuple((name, evaluate(size, known)) for name, size in use.sizes)


def _has_choices(workload: Workload, target: Target) -> bool:
    """Whether there are several points for it."""
    try:
        points = template_of(workload).space(target, workload)
        return len(list(islice(points, 2))) == 2
    except LookupError:
        return False
