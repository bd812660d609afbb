"""`pocketformer runtime build`: what a device needs to run bundles."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from pocketformer.compiler.cli.common import (
    Debug,
    Json,
    err,
    guarded,
    out,
    print_json,
    progress,
)

app = typer.Typer(no_args_is_help=True, help="The native library and programs of a device.")


@app.callback()
def _options() -> None:
    """Keeps `build` a command of its own while it is the only one."""


@app.command()
@guarded
def build(
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t",
            help="host, arm64-linux, arm64-android, armv7-android, or a device's name.",
        ),
    ] = "host",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Compilers at a time; one a CPU.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile everything again.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile the runtime library, pocketformer_run and pocketformer_device.

    zig compiles for Linux, the NDK in ANDROID_NDK_HOME for Android. What was built is kept.
    """
    from pocketformer import runtime
    from pocketformer.compiler.tables import facts, human_bytes

    with progress("looking for what is built") as step:
        built = runtime.build(target, progress=step, jobs=jobs, force=force)
    if json:
        sizes = dict(built.sizes)
        print_json({"target": built.target, "folder": str(built.folder), "bytes": sizes})
        return
    rows = [(name, human_bytes(size)) for name, size in built.sizes.items()]
    out.print(facts([("target", built.target), *rows]))
    err.print(f"[green]Built in {escape(str(built.folder))}[/].", highlight=False, soft_wrap=True)
