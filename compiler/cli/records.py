"""`pocketformer records show | best | export | merge | prune`: what tuning has found."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketformer.compiler.cli.common import Debug, Json, err, guarded, out, plain, print_json
from pocketformer.compiler.errors import BadRecords
from pocketformer.compiler.tables import plain_table

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.record import Record
    from pocketformer.compiler.tuning.records import Records

Files = Annotated[list[Path], typer.Argument(help="Files of records.", show_default=False)]
OfWorkload = Annotated[
    str | None, typer.Option("--workload", help="Only workloads with this in their name.")
]
OfCore = Annotated[
    str | None, typer.Option("--core", help="Only this processor, by LLVM's name.")
]
OfTarget = Annotated[
    str | None, typer.Option("--target", help="Only what was compiled for this target.")
]

app = typer.Typer(no_args_is_help=True, help="Records of tuning: look at them, keep the best.")


@app.command()
@guarded
def show(
    files: Files,
    workload: OfWorkload = None,
    core: OfCore = None,
    target: OfTarget = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show all records, and why some are not used."""
    records = _load(files)
    _show(records, _chosen(records, workload, core, target), json)


@app.command()
@guarded
def best(
    files: Files,
    workload: OfWorkload = None,
    core: OfCore = None,
    target: OfTarget = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the best record of each workload, processor and number of threads."""
    from pocketformer.compiler.tuning.ranking import best_of_each

    records = _load(files)
    _show(records, best_of_each(_chosen(records, workload, core, target)), json)


@app.command()
@guarded
def export(
    files: Files,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)
    ],
    only_best: Annotated[
        bool,
        typer.Option(
            "--best", help="Only the best of each workload and processor, and which points fail."),
    ] = False,
    workload: OfWorkload = None,
    core: OfCore = None,
    target: OfTarget = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write records to a file of their own, which must be new."""
    from pocketformer.compiler.tuning.ranking import best_of_each, one_failure_each
    from pocketformer.compiler.tuning.record import encode_record

    records = _load(files)
    chosen = _chosen(records, workload, core, target)
    if only_best:
        chosen = [*best_of_each(chosen), *one_failure_each(chosen)]

    def written(lines: list[Any]) -> list[str]:
        if lines:
            raise BadRecords(f"{output} holds records already; `records merge` adds to a file")
        return list(map(encode_record, chosen))

    _rewrite(output, written, json)


@app.command()
@guarded
def merge(
    output: Annotated[Path, typer.Argument(help="The file to add to.", show_default=False)],
    files: Files,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Add the records of files to one, each once; what it holds already stays first."""
    from pocketformer.compiler.tuning.record_file import merge, read_lines

    others = [line for file in files for line in read_lines(file)]
    _rewrite(output, lambda own: merge([*own, *others]), json)


@app.command()
@guarded
def prune(
    file: Annotated[Path, typer.Argument(help="A file of records.", show_default=False)],
    keep: Annotated[int, typer.Option(min=1, help="How many points of each workload.")] = 5,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Keep the best points of each workload, processor and number of threads in a file.

    One record of each point that failed stays as well, so that none is tried again.
    """
    from pocketformer.compiler.tuning.record_file import prune, read_lines

    list(read_lines(file))      # it must be there
    _rewrite(file, lambda lines: prune(lines, keep), json)


def _load(files: Sequence[Path]) -> Records:
    from pocketformer.compiler.tuning.records import Records

    return Records.load(files)


def _chosen(
    records: Records, workload: str | None, core: str | None, target: str | None
) -> list[Record]:
    return [
        record for record in records
        if (not workload or workload in str(record.workload))
        and (not core or record.core == core)
        and (not target or record.target == target.removesuffix("/cpu"))
    ]


def _rewrite(file: Path, change: Callable[[list[Any]], list[str]], json: bool) -> None:
    """Replace the lines of `file`, and say how many there are."""
    from pocketformer.compiler.tuning.record_file import RecordFile

    counts: list[int] = []

    def counted(lines: list[Any]) -> list[str]:
        after = change(lines)
        counts[:] = len(lines), len(after)
        return after

    RecordFile(file).rewrite(counted)
    if json:
        print_json({"file": str(file), "lines_before": counts[0], "lines": counts[1]})
    else:
        out.print(f"{file}: {counts[1]} lines, {counts[0]} before", markup=False, highlight=False)


def _show(records: Records, chosen: Sequence[Record], json: bool) -> None:
    from pocketformer.compiler.tuning.record import encode_record

    notes = list(map(_note, chosen))
    if json:
        shown = [
            {**jsons.loads(encode_record(record)), "gain": record.gain or None, "note": note}
            for record, note in zip(chosen, notes, strict=True)
        ]
        skipped = [
            {"file": line.file, "line": line.number, "reason": line.reason}
            for line in records.skipped
        ]
        print_json({"records": shown, "skipped": skipped})
        return
    table = plain_table(
        "workload", "point", "processor", "threads", "us", "gain", "spread", "source", "note")
    for record, note in zip(chosen, notes, strict=True):
        table.add_row(*(plain(" ".join(cell.splitlines())) for cell in (*_row(record), note)))
    out.print(table if chosen else "No records.")
    for line in records.skipped:
        said = f"{line.file}, line {line.number} is not used: {line.reason}"
        err.print(plain(said), soft_wrap=True, highlight=False)


def _row(record: Record) -> tuple[str, ...]:
    from pocketformer.compiler.tuning.job import name_at
    from pocketformer.compiler.tuning.points import point_text

    times = ("", "", "")
    if record.gain:
        times = (f"{record.median_us:.4g}", f"{record.gain:.3f}x", f"{record.spread:.1%}")
    return (
        name_at(record.workload, record.sizes.items()),
        point_text(record.point), record.core, str(record.threads), *times,
        "confirmed" if record.confirmed else record.source,
    )


def _note(record: Record) -> str:
    """Why the record is not used here, as far as it shows without a model; "" if it can be."""
    from pocketformer import targets
    from pocketformer.compiler.tuning.points import legal
    from pocketformer.compiler.tuning.records import core_of, unfit

    if record.error:
        return f"failed: {record.error}"
    if why := unfit(record, record.core):
        return why
    if record.target not in targets.available():
        return ""
    target = targets.load(record.target)
    if not target.levels and core_of(target) != record.core:
        return ""
    if any(legal(record.point, record.workload, variant) for variant in target.variants):
        return ""
    return "no longer a point of its space"
