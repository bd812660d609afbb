"""`pocketformer inspect`: what a bundle or a model holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pocketformer.compiler.cli.common import (
    Debug,
    Json,
    guarded,
    out,
    print_json,
    progress,
)


@guarded
def inspect(
    path: Annotated[
        Path,
        typer.Argument(help="A bundle, .onnx file or Hugging Face folder.", show_default=False),
    ],
    component: Annotated[
        str | None, typer.Option(help="Which part of a folder's model, such as encoder.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show inputs, outputs, dimensions, sizes, and a bundle's kernels or a model's operators."""
    from pocketformer.compiler import report

    if is_bundle(path):
        from pocketformer.compiler.bundle import Bundle
        from pocketformer.compiler.kernel_tables import kernel_table
        from pocketformer.compiler.quantization.table import accuracy_tables

        bundle = Bundle.load(path, check_machine=False)
        if json:
            print_json({"kind": "bundle", **report.bundle_record(bundle)})
        else:
            out.print(report.bundle_card(bundle))
            out.print(kernel_table(bundle.manifest))
            if bundle.manifest.accuracy is not None:
                out.print()
                out.print(accuracy_tables(bundle.manifest.accuracy))
        return
    with progress(f"reading {path.name}"):
        from pocketformer.compiler.frontends import load

        model = load(path, component=component)
    if json:
        print_json({"kind": "model", **report.model_record(model)})
    else:
        out.print(report.model_card(model))


def is_bundle(path: Path) -> bool:
    """Whether `path` is meant as a bundle: by its content, or by its name where it is broken."""
    return (path / "manifest.json").is_file() or path.suffix == ".pf"
