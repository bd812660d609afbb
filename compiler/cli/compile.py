"""`pocketformer compile`: from a model file to a bundle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pocketformer.compiler.cli.accuracy import (
    Accept,
    Evaluate,
    Labels,
    MetricName,
    Output,
    Page,
    Trials,
    accuracy_from,
    overlap,
)
from pocketformer.compiler.cli.common import (
    Debug,
    Dims,
    Json,
    check_page,
    err,
    guarded,
    key_values,
    out,
    plain,
    print_json,
    progress,
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
from pocketformer.compiler.errors import AccuracyLost, BadRecords

if TYPE_CHECKING:
    from pocketformer.compiler.quantization.result import AccuracyReport


@guarded
def compile(
    model: Annotated[
        Path, typer.Argument(help="An .onnx file or a Hugging Face folder.", show_default=False)
    ],
    target: Annotated[
        str, typer.Option("--target", "-t", help="A name of `pocketformer targets`.")
    ] = "host",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The bundle to write; the model's name + .pf."),
    ] = None,
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
    evaluate: Evaluate = None,
    accept: Accept = None,
    metric: MetricName = None,
    labels: Labels = None,
    compare_output: Output = None,
    trials: Trials = None,
    html: Page = None,
    dim: Dims = None,
    component: Annotated[
        str | None,
        typer.Option(help="Which part of a folder's model, such as encoder or decoder."),
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file of `pocketformer tune`: which kernels are fast. May be repeated. Without "
            "it, what is known of the target's processor.",
        ),
    ] = None,
    no_records: Annotated[
        bool, typer.Option("--no-records", help="Take the default kernels.")
    ] = False,
    embed_weights: Annotated[
        bool, typer.Option("--embed-weights", help="Put the weights into the .so, too.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Tell which kernel runs each operator of the source."),
    ] = False,
    dump_ir: Annotated[
        Path | None,
        typer.Option(help="A folder for the module after every pass, as TVMScript."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a model into a bundle."""
    from pocketformer import targets
    from pocketformer.compiler import report
    from pocketformer.compiler.bundle import Bundle, check_replaceable
    from pocketformer.compiler.kernel_tables import operator_table
    from pocketformer.compiler.quantization.table import accuracy_tables
    from pocketformer.compiler.recipe import check_recipe

    # A misspelt target is told now, not after minutes of work.
    chosen = recipe_from(
        recipe, calibrate, override, smooth, observer=observer, activations=activations,
        bias_correction=bias_correction, equalize=equalize, scales=scales, attention=attention,
        embeddings=embeddings, group=group,
    )
    check_recipe(chosen, targets.load(target))
    accuracy = accuracy_from(evaluate, accept, metric, labels, compare_output, html, trials)
    if overlap(calibrate, evaluate):
        err.print(
            "[yellow]note:[/] --evaluate has data of --calibrate: answers to other inputs may lose "
            "more", soft_wrap=True, highlight=False,
        )
    check_page(html)
    if records and no_records:
        raise BadRecords("--records and --no-records exclude each other")
    dims = key_values(dim, "--dim")
    destination = output or Path(f"{_stem(model, component)}.pf")
    check_replaceable(destination)    # and so is a place that is taken
    start = time.perf_counter()
    with (
        _refusal(html, json),
        remarks("pocketformer.records"),
        remarks("pocketformer.calibration"),
        progress(f"reading {model.name}") as step,
    ):
        from pocketformer.compiler.build import compile as compile_model

        bundle = compile_model(
            model,
            target=target,
            dims=dims,
            component=component,
            recipe=chosen,
            records=() if no_records else records,
            embed_weights=embed_weights,
            progress=step,
            dump_ir=dump_ir,
            accept=accuracy,
        )
        measured = bundle.manifest.accuracy
        if html is not None and measured is not None:
            measured.save_html(html)    # first: where that fails there is no bundle
        step(f"writing {destination}", 1.0)
        bundle.save(destination)
        written = Bundle.load(destination, check_machine=False)
    seconds = time.perf_counter() - start
    if html is not None and measured is not None:
        err.print(f"Wrote {escape(str(html))}.", highlight=False)
    if json:
        record = report.bundle_record(written)
        if not explain:
            del record["operators"]
        print_json({"bundle": str(destination), "seconds": round(seconds, 3), **record})
        return
    if explain:
        out.print(operator_table(written.manifest.operators))
    if measured is not None:
        out.print(accuracy_tables(measured))
        out.print()
    out.print(report.bundle_card(written))
    err.print(f"[green]Wrote {escape(str(destination))}[/] in {seconds:.1f} s.", highlight=False)


@contextmanager
def _refusal(html: Path | None, json: bool) -> Iterator[None]:
    """Writes what was measured where the answers cannot be held, too: to the page, as JSON."""
    try:
        yield
    except AccuracyLost as error:
        if html is not None:
            _page(error.report, html)
        if json:
            sentence = str(error).splitlines()[0]
            print_json({"error": sentence, "accuracy": error.report.to_dict()})
        raise


def _page(report: AccuracyReport, html: Path) -> None:
    """Writes the page of a refusal; that it cannot be written must not hide the refusal."""
    try:
        report.save_html(html)
    except OSError as error:
        err.print(f"[yellow]note:[/] {plain(f'{html}: {error.strerror}')}", highlight=False)
    else:
        err.print(f"Wrote {escape(str(html))}.", highlight=False)


def _stem(model: Path, component: str | None) -> str:
    name = model.resolve().name
    stem = name[: -len(".onnx")] if name.endswith(".onnx") else name
    return f"{stem}-{component}" if component else stem
