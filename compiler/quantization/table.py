"""An accuracy check on the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pocketformer.compiler.profiling.table import milliseconds
from pocketformer.compiler.quantization.result import AccuracyReport, Choice
from pocketformer.compiler.tables import facts, human_bytes, plain_table

SHOWN = 12    # layers on the terminal, the most sensitive ones; `--json` and the page have all
DECIBEL = "sqnr"


def accuracy_tables(report: AccuracyReport) -> RenderableType:
    """What was measured, choice by choice, and the layers that suffer most."""
    return Group(
        facts(headline(report)), Text(), choice_table(report), Text(), _layer_table(report)
    )


def headline(report: AccuracyReport) -> list[tuple[str, str]]:
    """The figures of the whole check, named."""
    threads = f"{report.threads} thread" + "s" * (report.threads > 1)
    batches = f"{report.batches} batch" + "es" * (report.batches > 1)
    limit = "any drop" if report.max_drop is None else f"a drop of at most {report.max_drop:g}"
    pairs = [
        ("accuracy of", f"{report.model}, {report.recipe}"),
        ("metric", f"{report.metric} on {batches}, with {limit}"),
        ("measured", f"on {report.device}, {threads}"),
    ]
    if report.choice is None:
        return pairs
    kept = f"{len(report.kept)} of {len(report.layers)} layers, in {report.choice.precision}"
    return [
        *pairs,
        ("answers", f"{shown_value(report, report.choice)}, float32 {_baseline(report)}"),
        ("weights", f"{human_bytes(report.choice.bytes)}, "
                    f"{_share(report.choice.bytes, report.float32_bytes)} of float32's "
                    f"{human_bytes(report.float32_bytes)}"),
        ("a run", f"{milliseconds(report.choice.ms)}, "
                  f"{_share(report.choice.ms, report.float32_ms)} of float32's "
                  f"{milliseconds(report.float32_ms)}"),
        ("kept", kept if report.kept else "none"),
    ]


def choice_table(report: AccuracyReport) -> Table:
    """A row for each choice that was measured, the one with the fewest kept layers first."""
    table = plain_table("kept", "in")
    for name in (escape(report.metric), "drop", "weights", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in choice_rows(report):
        table.add_row(*map(Text, row))
    return table


def choice_rows(report: AccuracyReport) -> Iterable[tuple[str, ...]]:
    """Kept layers, their precision, metric, drop, weights, milliseconds, whether it was chosen."""
    yield (
        "all", "float32", _baseline(report), "0", human_bytes(report.float32_bytes),
        f"{report.float32_ms:.3f}", "",
    )
    places = sorted(range(len(report.choices)), key=lambda at: len(report.choices[at].kept))
    for place in places:
        choice = report.choices[place]
        yield (
            f"{len(choice.kept)} of {len(report.layers)}" if report.layers else "none",
            choice.precision if choice.kept else "",
            shown_value(report, choice),
            shown_drop(choice),
            human_bytes(choice.bytes),
            f"{choice.ms:.3f}",
            "chosen" if place == report.chosen else "",
        )


def _layer_table(report: AccuracyReport) -> Table:
    table = plain_table("layer", "kind", "precision")
    table.add_column("SQNR dB", justify="right", no_wrap=True)
    if report.looked_for:
        table.add_column("answers dB", justify="right", no_wrap=True)
    table.add_column("")
    layers = report.sensitive_first
    shown = layers[:SHOWN] + [layer for layer in layers[SHOWN:] if layer.kept]
    for layer in shown:
        table.add_row(
            Text(layer.name, overflow="fold"), Text(layer.kind), Text(layer.precision),
            decibels(layer.sqnr), *[decibels(layer.answers)] * report.looked_for,
            "kept" if layer.kept else "",
        )
    if rest := len(layers) - len(shown):
        table.add_row(f"and {rest} that suffer less")
    return table


def decibels(ratio: float | None) -> str:
    """A layer's signal-to-noise ratio, or that of the answers."""
    return "" if ratio is None else f"{ratio:.1f}"


def shown_value(report: AccuracyReport, choice: Choice) -> str:
    """The metric of a choice."""
    if choice.value is None:
        return "exact" if choice.drop == 0 else "not finite"
    return _metric(report, choice.value)


def shown_drop(choice: Choice) -> str:
    """How much of the metric a choice loses."""
    return "not finite" if choice.drop is None else f"{choice.drop:.3g}"


def plain_text(report: AccuracyReport) -> str:
    """The choices as lines of text, for an error's message."""
    header = ("kept", "in", report.metric, "drop", "weights", "ms", "")
    rows = [header, *choice_rows(report)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _baseline(report: AccuracyReport) -> str:
    return "exact" if report.baseline is None else _metric(report, report.baseline)


def _metric(report: AccuracyReport, value: float) -> str:
    return f"{value:.2f} dB" if report.metric == DECIBEL else f"{value:.5f}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "1"
