"""A tuning's pictures as SVG text: the gain of each kernel, and how the search came there."""

from __future__ import annotations

from collections.abc import Sequence

from pocketformer.compiler.profiling.table import milliseconds
from pocketformer.compiler.svg import COLOURS, drawing, plain, svg
from pocketformer.compiler.tuning.result import TaskStatus


def gain_picture(tasks: Sequence[TaskStatus]) -> str:
    """Two bars for each kernel: all its calls in the model untuned, and with the best point."""
    shown = [task for task in tasks if task.default_us]
    figure, axes = drawing(0.5 * len(shown) + 0.8)
    for row, task in enumerate(shown):
        untuned = (task.default_us or 0.0) * task.calls / 1e3
        tuned = untuned / task.gain
        axes.barh(row - 0.18, untuned, height=0.34, color=COLOURS[4], label="untuned")
        axes.barh(row + 0.18, tuned, height=0.34, color=COLOURS[0], label="tuned")
        axes.text(
            max(untuned, tuned), row,
            f" {task.gain:.3f}x  ·  {milliseconds(tuned)}  ·  {task.trials} trials",
            va="center", fontsize=9,
        )
    axes.set_yticks(range(len(shown)), [plain(task.key) for task in shown])
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds of all calls in a run")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[:2], labels[:2], frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1)
    )
    return svg(figure, {})


def curve_picture(curve: Sequence[tuple[int, float]]) -> str:
    """How much faster all kernels are with the best points of so many trials."""
    figure, axes = drawing(3.0)
    axes.step(
        [trials for trials, _ in curve], [1 / ratio for _, ratio in curve], where="post",
        color=COLOURS[0], marker="o", markersize=3,
    )
    axes.grid(axis="y", color="#d9d9d9", linewidth=0.6)
    axes.set_xlabel("trials")
    axes.set_ylabel("kernels, times as fast")
    return svg(figure, {})
