"""An accuracy check's pictures as SVG text: what each choice costs, and how each layer suffers."""

from __future__ import annotations

from pocketformer.compiler.quantization.result import AccuracyReport
from pocketformer.compiler.svg import COLOURS, INK, drawing, plain, svg

LEAST = 1e-7    # a drop on the logarithmic axis; smaller ones are drawn as this


def choice_picture(report: AccuracyReport) -> str:
    """A dot for each choice: the time of a run along x, the drop of the metric up."""
    figure, axes = drawing(3.6)
    for place, choice in enumerate(report.choices):
        if choice.drop is None:
            continue
        drop = max(choice.drop, LEAST)
        chosen = place == report.chosen
        axes.plot(
            choice.ms, drop, "o", markersize=9 if chosen else 6,
            color=COLOURS[2] if chosen else COLOURS[0],
        )
        axes.annotate(
            f"{len(choice.kept)} kept" + ", chosen" * chosen, (choice.ms, drop), fontsize=8,
            xytext=(7, 3), textcoords="offset points",
        )
    axes.axvline(report.float32_ms, color=INK, linewidth=0.8, linestyle=":")
    axes.text(report.float32_ms, 1.0, " float32", transform=axes.get_xaxis_transform(), va="top",
              fontsize=8)
    if report.max_drop:
        axes.axhline(report.max_drop, color=COLOURS[5], linewidth=1.0)
        axes.text(0.0, report.max_drop, "the limit", transform=axes.get_yaxis_transform(),
                  va="bottom", fontsize=8, color=COLOURS[5])
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.margins(x=0.12, y=0.15)
    axes.set_xlabel("milliseconds of a run")
    axes.set_ylabel(plain(f"drop of {report.metric}"))
    return svg(figure, {})


def layer_picture(report: AccuracyReport) -> str:
    """A bar for each layer, the one that costs most first: the signal to quantisation noise of the
    answers where that was measured, else of the layer's own output."""
    ratios = [
        (layer, layer.answers if report.looked_for else layer.sqnr)
        for layer in report.sensitive_first
    ]
    layers = [(layer, ratio) for layer, ratio in ratios if ratio is not None]
    figure, axes = drawing(0.22 * len(layers) + 0.9)
    for row, (layer, ratio) in enumerate(layers):
        colour = COLOURS[1] if layer.kept else COLOURS[0]
        axes.barh(row, ratio, height=0.7, color=colour)
        says = f" {ratio:.1f}  ·  {layer.precision}" + ", kept" * layer.kept
        axes.text(max(ratio, 0.0), row, plain(says), va="center", fontsize=8)
    axes.set_yticks(range(len(layers)), [plain(layer.name) for layer, _ in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.margins(x=0.2)
    of = "the answers' " if report.looked_for else "each layer's "
    axes.set_xlabel(f"decibel of {of}signal to quantisation noise, each layer quantised alone")
    return svg(figure, {})
