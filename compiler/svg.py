"""Pictures as the text of an SVG, drawn by matplotlib, which need not be installed otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.errors import MissingPackage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By Okabe and Ito: apart for every kind of sight.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c00")
INK, FAINT = "#222222", "#d9d9d9"
WIDTH = 10.0    # inches
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",     # text stays text
    "svg.hashsalt": "pocketformer",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def require_matplotlib() -> None:
    """Raise MissingPackage where the pictures cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingPackage(
            "the HTML page needs matplotlib; install it: pip install 'pocketformer[report]'"
        ) from None


def drawing(height: float) -> tuple[Figure, Any]:
    """A figure of `height` inches and its axes, with lines up from the x axis alone."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    return figure, axes


def plain(text: str) -> str:
    """`text` as matplotlib shows it unchanged."""
    return text.replace("$", r"\$")    # which would begin a formula


def svg(figure: Figure, titles: Mapping[str, str]) -> str:
    """The figure without what a page does not need; what has a name of `titles` gets a tooltip.

    These names are `call-` and a number.
    """
    from matplotlib import rc_context

    file = BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r"(?<=>)\s+(?=<)", "", text)
    return re.sub(
        r'<g id="(call-\d+)">',
        lambda found: f"{found[0]}<title>{escape(titles[found[1]])}</title>",
        text,
    )
