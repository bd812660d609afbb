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
    from pocketformer.compiler.machine import this_machine
    from pocketformer.targets.device_file import read_device

    if name and json:
        print_json(report.target_record(known.load(name)))
    elif name:
        out.print(report.target_card(known.load(name)))
    elif json:
        print_json([report.target_record(known.load(each)) for each in known.available()])
    else:
        files = [known.DEVICES / f"{each}.toml" for each in known.available()]
        # As written: to check a file, or to detect the host, means to wait seconds for LLVM.
        devices = [read_device(file) for file in files if file.exists()]
        out.print(report.target_table(devices, str(this_machine())))
