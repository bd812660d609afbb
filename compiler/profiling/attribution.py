"""What an instrument saw of a run, and what the bundle knows of its kernels, put together."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from pocketformer.compiler.axes import evaluate
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import KernelRecord
from pocketformer.compiler.model import Axis
from pocketformer.compiler.profiling.result import Call
from pocketformer.passes.precision import FLOAT, multiplied_by

Timed = Sequence[tuple[str, int, int]]    # a run: what was called, start and end in nanoseconds
# The virtual machine's functions: memory and shapes.
MACHINE = ("vm.", "shape_func", "compute_symbolic_expr")


def kernels_of(run: Timed) -> list[tuple[str, int, int]]:
    """The calls of a run that are kernels."""
    return [(name, start, end) for name, start, end in run if not name.startswith(MACHINE)]


def attribute(
    runs: Sequence[Timed], manifest: Manifest, entry: str, sizes: Mapping[str, int]
) -> tuple[list[Call], float]:
    """The kernel calls of `entry` at these sizes, and the length of the shown run in milliseconds.

    The run that is shown is the one of median length.
    """
    kernels = [kernels_of(run) for run in runs]
    names = [name for name, _, _ in kernels[0]]
    assert all([name for name, _, _ in run] == names for run in kernels)
    lengths = [run[-1][2] - run[0][1] if run else 0 for run in runs]
    shown = lengths.index(statistics.median_low(lengths))
    begin = runs[shown][0][1] if runs[shown] else 0
    calls = []
    for place, record in enumerate(_records(names, manifest, entry)):
        took = [run[place][2] - run[place][1] for run in kernels]
        _, start, end = kernels[shown][place]
        operators = [manifest.operators[each] for each in record.operators]
        calls.append(Call(
            function=record.function,
            kernel=record.kernel,
            kind=record.kind,
            workload=record.workload,
            operators=tuple(each.name for each in operators),
            operator_kinds=tuple(dict.fromkeys(each.kind for each in operators)),
            operations=_evaluate(record.operations, sizes),
            bytes=_evaluate(record.bytes, sizes),
            ms=statistics.median(took) / 1e6,
            least_ms=min(took) / 1e6,
            start_ms=(start - begin) / 1e6,
            shown_ms=(end - start) / 1e6,
            precision=multiplied_by(record.kernel) if record.workload else FLOAT,
        ))
    return calls, lengths[shown] / 1e6


def _records(names: Sequence[str], manifest: Manifest, entry: str) -> Iterator[KernelRecord]:
    """What is known of each called kernel: by its place, else by its name alone."""
    known = [record for record in manifest.kernels if record.entry == entry]
    if [record.function for record in known] == list(names):
        yield from known
        return
    for name in names:
        operators = tuple(
            place for place, operator in enumerate(manifest.operators) if operator.kernel == name
        )
        kernel, _, workload = name.partition("__")
        yield KernelRecord(entry, name, kernel, "unknown", workload, operators, None, None)


def _evaluate(formula: Axis | None, sizes: Mapping[str, int]) -> int | None:
    return None if formula is None else evaluate(formula, sizes)
