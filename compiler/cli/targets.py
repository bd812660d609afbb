"""`pocketformer targets`: what can be compiled for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pocketformer.compiler.cli.common import Debug, Json, guarded, out, print_json
from pocketformer.compiler.tables import facts, plain_table

if TYPE_CHECKING:
    from pocketformer.targets import Target


@guarded
def targets(
    name: Annotated[str | None, typer.Argument(help="Show this target alone, in full.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the targets, or show one with its cores, instructions and caches."""
    from pocketformer import targets as known
    from pocketformer.compiler.machine import this_machine
    from pocketformer.targets.device_file import read_device

    if name and json:
        print_json(_record(known.load(name)))
    elif name:
        out.print(_card(known.load(name)))
    elif json:
        print_json([_record(known.load(each)) for each in known.available()])
    else:
        files = [known.DEVICES / f"{each}.toml" for each in known.available()]
        # As written: to check a file, or to detect the host, means to wait seconds for LLVM.
        devices = [read_device(file) for file in files if file.exists()]
        out.print(_table(devices, str(this_machine())))


def _table(devices: Iterable[Target], host: str) -> Table:
    """A row for this machine, which is a `host`, and one a device."""
    table = plain_table("target", "system", "compiled for", "what it is")
    table.add_row("host", host, "its processor", "this machine")
    for each in devices:
        system = f"{each.arch} {each.os}"
        table.add_row(each.name, system, each.mcpu, escape(each.description))
    return table


def _card(target: Target) -> Table:
    cores = ", ".join(f"{cluster.count} x {cluster.name}" for cluster in target.cores)
    return facts(
        [
            ("target", target.name),
            ("what it is", target.description),
            ("triple", target.triple),
            ("compiled for", target.mcpu),
            *_instructions(target),
            ("vectors", f"{target.vector_registers} registers of {target.vector_bits} bit"),
            ("cores", cores or "unknown"),
            ("threads", str(target.threads)),
        ]
    )


def _instructions(target: Target) -> list[tuple[str, str]]:
    """A line of instruction sets, or one for each level with what it adds to the one before."""
    if not target.levels:
        return [("instructions", ", ".join(sorted(target.isa)))]
    lines, before = [], frozenset[str]()
    for variant in target.variants:
        more = ", ".join(sorted(variant.isa - before))
        lines.append((f"level {variant.level}", f"+ {more}" if before else more))
        before = variant.isa
    return lines


def _record(target: Target) -> dict[str, Any]:
    derived = ("triple", "threads", "vector_bits", "vector_registers", "page_size")
    return {
        **asdict(target),
        "isa": sorted(target.isa),
        "levels": [{**asdict(level), "isa": sorted(level.isa)} for level in target.levels],
        **{name: getattr(target, name) for name in derived},
    }
