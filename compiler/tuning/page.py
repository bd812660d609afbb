"""A tuning as one HTML page: figures, two pictures, and tables that can be sorted."""

from __future__ import annotations

from html import escape
from pathlib import Path

from pocketformer.compiler import page as html
from pocketformer.compiler.svg import require_matplotlib
from pocketformer.compiler.tuning.pictures import curve_picture, gain_picture
from pocketformer.compiler.tuning.report import headline, points_text
from pocketformer.compiler.tuning.result import TaskStatus, Tuning

FIGURES = ("share", "calls", "trials", "failed", "points", "untuned us", "best us", "gain")


def write_page(tuning: Tuning, path: Path) -> None:
    """Write the page to `path`, as a whole or not at all. Raises MissingPackage and OSError."""
    html.write(page(tuning), path)


def page(tuning: Tuning) -> str:
    """The text of the page, which loads nothing else. Raises MissingPackage."""
    require_matplotlib()
    kernels = html.table(
        ("kernel", *FIGURES, "best point"), FIGURES, map(_row, tuning.tasks), largest_first="share"
    )
    return html.page(f"Tuning of {tuning.model}", headline(tuning), tuning.notes, [
        ("Time of each kernel in a run of the model", gain_picture(tuning.tasks)),
        ("The search", curve_picture(tuning.curve)),
        ("Kernels", kernels),
    ])


def _row(task: TaskStatus) -> str:
    us = task.default_us or 0.0
    figures = (
        (task.share, f"{task.share:.1%}"),
        (task.calls, str(task.calls)),
        (task.trials, str(task.trials)),
        (task.failed, str(task.failed)),
        (task.points, points_text(task)),
        (us, f"{us:.4g}"),
        (us / task.gain, f"{us / task.gain:.4g}"),
        (task.gain, f"{task.gain:.3f}"),
    )
    cells = "".join(html.figure(value, text) for value, text in figures)
    best = escape(task.best or "the untuned one") + ", confirmed" * (
        task.confirmed and bool(task.best)
    )
    return f'<td class="kernel">{escape(task.key)}</td>{cells}<td>{best}</td>'
