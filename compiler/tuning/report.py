"""A tuning on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pocketformer.compiler.profiling.table import milliseconds
from pocketformer.compiler.tables import facts, plain_table
from pocketformer.compiler.tuning.choices import WORTHWHILE
from pocketformer.compiler.tuning.result import TaskStatus, Tuning


def tuning_report(tuning: Tuning) -> RenderableType:
    """What was found, task by task, and what it brings to the model."""
    return Group(
        facts(headline(tuning)),
        Text(),
        task_table(tuning.tasks),
        *(Text(f"note: {note}", style="yellow") for note in tuning.notes),
    )


def headline(tuning: Tuning) -> list[tuple[str, str]]:
    """The figures of the whole tuning, named."""
    threads = f"{tuning.threads} thread" + "s" * (tuning.threads > 1)
    emulated = ", emulated" * tuning.emulated
    pairs = [
        ("model", f"{tuning.model} for {tuning.target}"),
        ("device", f"{tuning.device} ({tuning.core}){emulated}, {threads}"),
        ("trials", f"{tuning.trials}, in {tuning.path}"),
        ("kernels", f"{gain_text(tuning.kernel_gain)}, by their times alone"
                    + ", not confirmed" * tuning.interrupted),
    ]
    if tuning.compared:
        pairs.append((
            "tuned",
            f"{len(tuning.followed)} of {len(tuning.tasks)} kernels, those that gain "
            f"{WORTHWHILE - 1:.0%} or more",
        ))
    for each in tuning.compared:
        at = ", ".join(f"{name}={size}" for name, size in each.sizes.items())
        pairs.append((
            "a run" + f" at {at}" * bool(at),
            f"{milliseconds(min(each.tuned_ms))} tuned, {milliseconds(min(each.default_ms))} "
            f"untuned: {gain_text(each.gain)}, {len(each.tuned_ms)} runs of each in turns "
            f"(medians {milliseconds(median(each.tuned_ms))} and "
            f"{milliseconds(median(each.default_ms))})",
        ))
    return pairs


def task_table(tasks: Sequence[TaskStatus]) -> Table:
    """One row for each task, the one that takes most of the model's time first."""
    table = plain_table("kernel")
    for name in ("share", "trials", "of", "untuned us", "best us", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("best point")
    for task in tasks:
        known = task.default_us is not None
        table.add_row(
            Text(task.key, overflow="fold"),
            f"{task.share:.1%}",
            str(task.trials) + f" ({task.failed} failed)" * bool(task.failed),
            points_text(task),
            f"{task.default_us:.4g}" if task.default_us else "",
            f"{task.default_us / task.gain:.4g}" if task.default_us else "",
            f"{task.gain:.3f}" if known else "",
            Text(_best(task), overflow="fold"),
        )
    return table


def points_text(task: TaskStatus) -> str:
    """How many trials the task's space has; nobody can tell how many traces a function has."""
    return str(task.points - 1) if task.points > 1 else "any"


def _best(task: TaskStatus) -> str:
    if not task.best:
        return "" if task.default_us is None else "the untuned one"
    return task.best + " (not confirmed)" * (not task.confirmed)


def gain_text(gain: float) -> str:
    """`1.06x as fast`."""
    return f"{gain:.3f}x as fast"
