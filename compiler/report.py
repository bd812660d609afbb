"""What the command line shows of models, bundles and races: tables, and records for `--json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from pocketformer.compiler.tables import axis_bytes, counted, facts, human_bytes, plain_table

if TYPE_CHECKING:
    from pocketformer.compiler.bench import Result
    from pocketformer.compiler.bundle import Bundle
    from pocketformer.compiler.manifest import Manifest
    from pocketformer.compiler.manifest_records import LevelRecord
    from pocketformer.compiler.model import Dim, Model, TensorSpec


def _signature(
    inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], dims: Mapping[str, Dim]
) -> Table:
    table = plain_table("", "name", "dtype", "shape")
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            shape = " x ".join(map(str, spec.shape)) or "a number"
            table.add_row(kind, escape(spec.name), spec.dtype, escape(shape))
    for name, dim in dims.items():
        table.add_row("dimension", escape(name), "", str(dim))
    return table


def _signature_record(
    inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], dims: Mapping[str, Dim]
) -> dict[str, Any]:
    return {
        "inputs": [asdict(spec) for spec in inputs],
        "outputs": [asdict(spec) for spec in outputs],
        "dims": {name: asdict(dim) for name, dim in dims.items()},
    }


def model_card(model: Model) -> RenderableType:
    weights = sum(array.nbytes for array in model.weights.values())
    operators = counted(operator.kind for operator in model.operators)
    known = facts(
        [
            ("model", model.name),
            ("weights", f"{len(model.weights)} tensors, {human_bytes(weights)}"),
            ("operators", f"{len(model.operators)}: {operators}"),
        ]
    )
    return Group(known, _signature(model.inputs, model.outputs, model.dims))


def model_record(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        **_signature_record(model.inputs, model.outputs, model.dims),
        "weights": {
            "count": len(model.weights),
            "bytes": sum(array.nbytes for array in model.weights.values()),
        },
        "operators": dict(Counter(operator.kind for operator in model.operators).most_common()),
    }


def bundle_card(bundle: Bundle) -> RenderableType:
    from pocketformer.compiler.signature import Signature  # needs numpy, which `targets` does not

    manifest = bundle.manifest
    sizes = ", ".join(
        f"{name} {human_bytes(file.bytes)}" for name, file in manifest.files.items()
    )
    made_for = Signature(manifest).entries    # the base's; every level has the same
    rest = "any other size" if len(made_for) > 1 else "all sizes"
    entries = ", ".join(
        " ".join(f"{name}={size}" for name, size in entry.dims.items()) or rest
        for entry in made_for
    )
    weights = manifest.weights
    held = f"{weights.count} tensors, {human_bytes(weights.bytes)}" if weights else "in the library"
    arenas = ", ".join(dict.fromkeys(axis_bytes(record.arena) for record in manifest.memory))
    kernels = Counter(record.kernel for record in manifest.operators if record.kernel)
    known = facts(
        [
            ("bundle", f"{manifest.name}, {manifest.recipe}"),
            ("for", f"{manifest.target.name}: {manifest.target}"),
            ("files", sizes),
            ("weights", held),
            ("arena", arenas or "unknown"),
            ("made for", entries),
            ("kernels", f"{len(kernels)}, for {len(manifest.operators)} operators"),
            *_tuned(manifest),
            ("made", f"{manifest.created} by pocketformer {manifest.pocketformer_version}"),
            ("runs in", f"TVM {manifest.tvm_version}, tvm-ffi {manifest.tvm_ffi_version}"),
        ]
    )
    parts = [known, _signature(manifest.inputs, manifest.outputs, manifest.dims)]
    if manifest.levels:
        parts.append(level_table(manifest.levels))
    return Group(*parts)


def _tuned(manifest: Manifest) -> list[tuple[str, str]]:
    """How many of the kernels are as a record says, if any."""
    tuned = {record.function for record in manifest.kernels if record.tuned}
    made = {record.function for record in manifest.kernels}
    return [("tuned", f"{len(tuned)} of {len(made)} kernels, by records")] if tuned else []


def level_table(levels: Sequence[LevelRecord]) -> Table:
    """Each level with what it adds to those before: instructions, kernels, code and weights."""
    table = plain_table("level", "instructions", "kernels", "code", "weights")
    before: set[str] = set()
    for level in levels:
        more = ", ".join(name for name in level.isa if name not in before)
        plus = "+ " if before else ""
        sizes = (f"{plus}{human_bytes(size)}" for size in (level.code_bytes, level.weight_bytes))
        table.add_row(level.name, f"{plus}{more}", f"{plus}{level.kernels}", *sizes)
        before.update(level.isa)
    return table


def bundle_record(bundle: Bundle) -> dict[str, Any]:
    """The manifest as plain data."""
    return asdict(bundle.manifest)


def race_table(results: Sequence[Result], threads: int, compare: bool = True) -> Table:
    """One row for each engine; `compare` adds a column of its share of the last one's time."""
    compare = compare and len(results) > 1
    plural = "thread" if threads == 1 else "threads"
    headers = ["engine", "min ms", "median ms", "load ms", "memory"]
    rival = results[-1]
    if compare:
        headers.append(f"of {rival.label}'s")
    table = plain_table(*headers)
    table.title = f"{results[0].calls} calls each, {threads} {plural}"
    for result in results:
        times = (f"{each:.2f}" for each in (result.min_ms, result.median_ms, result.load_ms))
        memory = "" if result.run_bytes is None else human_bytes(result.run_bytes)
        cells = [escape(result.label), *times, memory]
        if compare:
            cells.append(f"{result.min_ms / rival.min_ms:.3f}")
        table.add_row(*cells)
    return table
