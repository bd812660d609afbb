"""`pocketformer tune`: search faster points for a model's kernels on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pocketformer.compiler.cli.common import (
    INTERRUPTED,
    Debug,
    Dims,
    Html,
    Json,
    Threads,
    Timeout,
    TokenFile,
    check_page,
    err,
    guarded,
    is_interruption,
    key_values,
    out,
    print_json,
    read_token_file,
    remarks,
)
from pocketformer.compiler.cli.recipes import (
    Activations,
    Attention,
    BiasCorrection,
    Calibrate,
    Embeddings,
    Equalize,
    Group,
    Observer,
    Override,
    RecipeName,
    Scales,
    Smooth,
    recipe_from,
)


@guarded
def tune(
    model: Annotated[
        Path, typer.Argument(help="An .onnx file or a Hugging Face folder.", show_default=False)
    ],
    target: Annotated[
        str, typer.Option("--target", "-t", help="A name of `pocketformer targets`.")
    ] = "host",
    device: Annotated[
        str,
        typer.Option(
            metavar="host|rpc://HOST:PORT/KEY",
            help="This machine, a device, or all of this key that the tracker there knows.",
        ),
    ] = "host",
    trials: Annotated[
        int, typer.Option("--trials", "-n", min=1, help="Points to measure, old ones included.")
    ] = 512,
    records: Annotated[
        Path, typer.Option(help="The file that every trial is added to, and that old ones are in.")
    ] = Path("records.jsonl"),
    recipe: RecipeName = "float32",
    calibrate: Calibrate = None,
    override: Override = None,
    observer: Observer = None,
    activations: Activations = None,
    smooth: Smooth = None,
    bias_correction: BiasCorrection = None,
    equalize: Equalize = None,
    scales: Scales = None,
    attention: Attention = None,
    embeddings: Embeddings = None,
    group: Group = None,
    dim: Dims = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="NAME=SIZE", help="A size to measure at that stays open."),
    ] = None,
    component: Annotated[
        str | None,
        typer.Option(help="Which part of a folder's model, such as encoder or decoder."),
    ] = None,
    threads: Threads = None,
    strategy: Annotated[
        str, typer.Option(help="model: a cost model that learns from the trials; or random.")
    ] = "model",
    seed: Annotated[int, typer.Option(help="Tunings at once on one file need different ones.")] = 0,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="tcp://HOST:PORT", help="A dask scheduler whose workers build."),
    ] = None,
    token_file: TokenFile = None,
    timeout: Timeout = 60.0,
    html: Html = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Search faster points for a model's kernels on a device, and keep all trials as records.

    The same command goes on where it was broken off. `compile --records FILE` uses the best.
    """
    from pocketformer.compiler.tuning.live import watching
    from pocketformer.compiler.tuning.options import Options
    from pocketformer.compiler.tuning.report import tuning_report

    check_page(html)
    options = Options(
        device, trials, records, key_values(size, "--size"), threads, strategy, seed,
        cluster, read_token_file(token_file), timeout,
    )
    chosen = recipe_from(
        recipe, calibrate, override, smooth, observer=observer, activations=activations,
        bias_correction=bias_correction, equalize=equalize, scales=scales, attention=attention,
        embeddings=embeddings, group=group,
    )
    with remarks("pocketformer.calibration"), watching(err) as watcher:
        from pocketformer.compiler.tuning.prepare import Source
        from pocketformer.compiler.tuning.tuner import Tuner

        source = Source.load(
            model, target, chosen, key_values(dim, "--dim"), component=component
        )
        tuner = Tuner(source, options, watcher)
        try:
            tuner.run()
        except BaseException as error:
            if not is_interruption(error):
                raise
    try:
        found = tuner.result()
        if html is not None:
            found.save_html(html)
        if json:
            print_json(found.to_dict())
        else:
            out.print(tuning_report(found))
    except BaseException as error:      # such as a second Ctrl-C
        if not is_interruption(error):
            raise
        raise _interrupted("all records", records) from None
    if found.interrupted:
        raise _interrupted(f"{len(found.records)} records", records)
    if html is not None:
        err.print(f"Wrote {escape(str(html))}.", highlight=False)


def _interrupted(what: str, records: Path) -> typer.Exit:
    err.print(
        f"[yellow]Interrupted; {what} are in {escape(str(records))}, and the same command goes "
        "on.[/]",
        highlight=False,
    )
    return typer.Exit(INTERRUPTED)
