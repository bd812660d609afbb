"""`pocketformer targets`: what can be compiled for."""

from __future__ import annotations

from typing import Annotated

import typer

from pocketformer.compiler.cli.common import Debug, Json, guarded, out, print_json


@guarded
def targets(
    name: Annotated[str | None, typer.Argument(help="Show this target alone, in full.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the targets, or show one with its cores, instructions and caches."""
    from pocketformer import targets as known
    from pocketformer.compiler import report

    chosen = [known.load(each) for each in ([name] if name else known.available())]
    if json:
        records = [report.target_record(each) for each in chosen]
        print_json(records[0] if name else records)
    elif name:
        out.print(report.target_card(chosen[0]))
    else:
        out.print(report.target_table(chosen))
