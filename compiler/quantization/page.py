"""An accuracy check as one HTML page: figures, two pictures, and tables that can be sorted."""

from __future__ import annotations

from html import escape
from pathlib import Path

from pocketformer.compiler import page as html
from pocketformer.compiler.quantization.pictures import choice_picture, layer_picture
from pocketformer.compiler.quantization.result import AccuracyReport, Choice, LayerReport
from pocketformer.compiler.quantization.table import decibels, headline, shown_drop, shown_value
from pocketformer.compiler.svg import require_matplotlib
from pocketformer.compiler.tables import human_bytes

RATIOS = ("SQNR dB", "answers dB")
LARGEST = 1e300    # where tables sort what is no finite number


def write_page(report: AccuracyReport, path: Path) -> None:
    """Write the page to `path`, as a whole or not at all. Raises MissingPackage and OSError."""
    html.write(page(report), path)


def page(report: AccuracyReport) -> str:
    """The text of the page, which loads nothing else. Raises MissingPackage."""
    require_matplotlib()
    figures = (escape(report.metric), "drop", "weights", "ms")
    choices = html.table(
        ("kept", "in", *figures), figures,
        (_choice(report, choice) for choice in report.choices), largest_first="drop",
    )
    ratios = RATIOS if report.looked_for else RATIOS[:1]
    layers = html.table(
        ("layer", "kind", "precision", *ratios, "kept"), ratios,
        (_layer(layer, len(ratios)) for layer in report.sensitive_first), largest_first="",
    )
    return html.page(f"Accuracy of {report.model}", headline(report), (), [
        ("What each choice costs", choice_picture(report)),
        ("How each layer suffers", layer_picture(report)),
        ("Choices that were measured", choices),
        ("Layers", layers),
    ])


def _choice(report: AccuracyReport, choice: Choice) -> str:
    names = "".join(f"{escape(report.layers[place].name)}<br>" for place in choice.kept)
    drop = LARGEST if choice.drop is None else choice.drop
    kept = f"<details><summary>{len(choice.kept)} layers</summary>{names}</details>"
    figures = (
        (LARGEST if choice.value is None else choice.value, shown_value(report, choice)),
        (drop, shown_drop(choice)),
        (choice.bytes, human_bytes(choice.bytes)),
        (choice.ms, f"{choice.ms:.3f}"),
    )
    cells = "".join(html.figure(number, text) for number, text in figures)
    return f"<td>{kept}</td><td>{escape(choice.precision)}</td>{cells}"


def _layer(layer: LayerReport, ratios: int) -> str:
    """A row of the table, with so many of RATIOS."""
    figures = "".join(
        html.figure(LARGEST if ratio is None else ratio, decibels(ratio))
        for ratio in (layer.sqnr, layer.answers)[:ratios]
    )
    return (
        f'<td class="kernel">{escape(layer.name)}</td><td class="kind">{escape(layer.kind)}</td>'
        f"<td>{escape(layer.precision)}</td>{figures}<td>{'kept' if layer.kept else ''}</td>"
    )
