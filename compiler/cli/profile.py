"""`pocketformer profile`: where the time of a run goes, kernel by kernel."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from pocketformer.compiler.cli.common import (
    BundleFile,
    Debug,
    Device,
    Html,
    InputsFile,
    Json,
    MadeUpSizes,
    OneInput,
    Threads,
    Timeout,
    TokenFile,
    check_page,
    err,
    guarded,
    key_values,
    out,
    print_json,
    progress,
    read_token_file,
)
from pocketformer.compiler.cli.run import read_inputs


@guarded
def profile(
    bundle: BundleFile,
    inputs: InputsFile = None,
    input: OneInput = None,
    dim: MadeUpSizes = None,
    runs: Annotated[
        int, typer.Option(min=1, help="Runs with the instrument, and as many without.")
    ] = 20,
    threads: Threads = None,
    device: Device = None,
    token_file: TokenFile = None,
    timeout: Timeout = 60.0,
    html: Html = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time every kernel of a bundle, here or on a device, and name the operators behind it.

    Each kernel's speed stands beside the device's own limits, which are measured on it.
    """
    from pocketformer.compiler.profiling import profile as measure
    from pocketformer.compiler.profiling.table import profile_tables

    check_page(html)
    with progress(f"loading {bundle}") as step:
        found = measure(
            bundle,
            read_inputs(inputs, input),
            dims=key_values(dim, "--dim"),
            runs=runs,
            threads=threads,
            device=device,
            token=read_token_file(token_file),
            timeout=timeout,
            progress=step,
        )
    if html is not None:
        found.save_html(html)
    if json:
        print_json(found.to_dict())
        return
    out.print(profile_tables(found))
    if html is not None:
        err.print(f"Wrote {escape(str(html))}.", highlight=False)
