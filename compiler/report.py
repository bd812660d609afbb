"""What the command line shows: tables for people, records for `--json`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pocketformer.compiler.bench import Result
    from pocketformer.compiler.bundle import Bundle
    from pocketformer.compiler.manifest import Manifest
    from pocketformer.compiler.manifest_records import LevelRecord, OperatorRecord
    from pocketformer.compiler.model import Axis, Dim, Model, TensorSpec


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


# Models and bundles


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
    operators = _counts(operator.kind for operator in model.operators)
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
    arenas = ", ".join(dict.fromkeys(_size(record.arena) for record in manifest.memory))
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


# Operators and kernels


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
    return _size(largest) if largest else ""


def _size(size: Axis | None) -> str:
    """A number of bytes, or a formula of one."""
    if size is None:
        return "unknown"
    return human_bytes(size) if isinstance(size, int) else f"{size} bytes"


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
        kinds = _counts(record.kind for record in members)
        table.add_row(Text(kinds), "", str(len(members)), "", "none", Text(note))
    return table


def _counts(kinds: Iterable[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())


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


# Races


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
