"""A tuning while it runs, as a table on a terminal, or a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from pocketformer.compiler.tables import plain_table
from pocketformer.compiler.tuning.report import gain_text, task_table
from pocketformer.compiler.tuning.status import COOLING, WAITING, Status, Watcher

QUIET_S = 10.0     # between two lines where there is no terminal


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """Yields a watcher that shows on `console` what it hears; the table is gone at the end."""
    if not console.is_terminal:
        yield _Lines(console).hear
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda status: live.update(table(status), refresh=True)


def table(status: Status) -> RenderableType:
    """The tasks with their trials and gains, then what is going on, and what is left."""
    parts: list[RenderableType] = []
    if status.tasks:
        parts.append(task_table(status.tasks))
    parts.append(Text(headline(status), style="bold"))
    if status.devices:
        devices = plain_table()
        for _ in range(2):
            devices.add_column()
        for name, state in status.devices:
            devices.add_row(escape(name), escape(state))
        parts.append(devices)
    return Group(*parts)


def headline(status: Status) -> str:
    """`searching: 64 of 512 trials, kernels 1.06x as fast, 1:20, at most 4:10 left`."""
    parts = []
    if status.of_trials:
        parts.append(f"{status.trials} of {status.of_trials} trials")
        parts.append(f"kernels {gain_text(status.gain)}")
    elif status.fraction:
        parts.append(f"{status.fraction:.0%}")
    parts.append(clock(status.seconds))
    if status.left_s:
        parts.append(f"at most {clock(status.left_s)} left")
    states = [state for _, state in status.devices]
    if states and all(WAITING in state for state in states):
        parts.append("no device answers")
    elif cooling := sum(COOLING in state for state in states):
        parts.append(f"{cooling} of {len(states)} devices {COOLING}")
    return f"{status.step}: {', '.join(parts)}"


def clock(seconds: float) -> str:
    """`1:20`, `2:03:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Lines:
    """A line for each step, and one every few seconds while it lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: tuple[str, float] = ("", 0.0)

    def hear(self, status: Status) -> None:
        step, when = self._said
        now = time.monotonic()
        if status.step != step or now - when >= QUIET_S:
            self._said = (status.step, now)
            self._console.print(
                headline(status), highlight=False, markup=False, soft_wrap=True
            )
