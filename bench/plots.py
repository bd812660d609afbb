"""Plots of finished cases: ratios to the fastest peer, shares of the arithmetic limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.table import ratio, share

Record = dict[str, Any]
Points = dict[str, dict[str, float]]     # a series' values by the group that they stand in


def plot_ratios(records: Sequence[Record], output: Path) -> None:
    """Our time by the fastest peer's in float32: a panel for each batch and number of threads."""
    panels: dict[str, Points] = {}
    for record in records:
        if (found := ratio(record)) is None:
            continue
        series = f"length {record['sizes']['seq']}" if "seq" in record["sizes"] else "fixed size"
        panel = panels.setdefault(_panel(record), {})
        panel.setdefault(series, {})[record["model"]] = found[0]
    _draw(panels, "time / fastest peer's", lambda axes: axes.axhline(1, color="black", lw=1),
          output)


def plot_shares(records: Sequence[Record], output: Path) -> None:
    """The share of the arithmetic limit that engines reach at length 128, or at the fixed size."""
    panels: dict[str, Points] = {}
    for record in records:
        if record["sizes"].get("seq", 128) != 128:
            continue
        panel = panels.setdefault(_panel(record), {})
        for engine in record["engines"]:
            if (reached := share(record, engine)) is not None:
                panel.setdefault(engine["label"], {})[record["model"]] = reached
    _draw(panels, "share of the arithmetic limit", lambda axes: axes.set_ylim(0, 1), output)


def _panel(record: Record) -> str:
    return f"batch {record['sizes']['batch']}, threads {record['threads']}"


def _draw(
    panels: dict[str, Points], label: str, finish: Callable[[Any], Any], output: Path
) -> None:
    """Bars in groups, a panel below the other; nothing where there is nothing to draw."""
    if not panels:
        return
    import matplotlib as mpl

    mpl.use("Agg")    # needs no screen
    from matplotlib import pyplot

    height = 3.2 * len(panels)
    figure, grid = pyplot.subplots(len(panels), figsize=(11, height), squeeze=False)
    for (title, points), axes in zip(panels.items(), grid[:, 0], strict=True):
        groups = list(dict.fromkeys(name for series in points.values() for name in series))
        width = 0.85 / len(points)
        for number, (name, series) in enumerate(points.items()):
            at = [groups.index(group) + (number + 0.5) * width - 0.425 for group in series]
            axes.bar(at, list(series.values()), width * 0.92, label=name)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        finish(axes)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=6, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.45 / height))
    figure.savefig(output, dpi=110)
    pyplot.close(figure)
