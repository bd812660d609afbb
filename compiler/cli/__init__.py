"""The command line; a file for each command."""

from __future__ import annotations

from typing import Annotated

import typer

import pocketformer
from pocketformer.compiler.cli.bench import bench
from pocketformer.compiler.cli.compile import compile
from pocketformer.compiler.cli.device import app as device
from pocketformer.compiler.cli.inspect import inspect
from pocketformer.compiler.cli.profile import profile
from pocketformer.compiler.cli.records import app as records
from pocketformer.compiler.cli.run import run
from pocketformer.compiler.cli.runtime import app as runtime
from pocketformer.compiler.cli.targets import targets
from pocketformer.compiler.cli.tune import tune

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compiles Transformers for phones.",
)
for command in (compile, run, bench, profile, tune, inspect, targets):
    app.command()(command)
app.add_typer(device, name="device")
app.add_typer(runtime, name="runtime")
app.add_typer(records, name="records")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pocketformer {pocketformer.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `pocketformer` itself."""


def main() -> None:
    app()
