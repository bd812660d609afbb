"""When each call of a virtual machine began and ended."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class TimedCall(NamedTuple):
    """A function that the virtual machine called, and when, in nanoseconds of one clock."""

    name: str
    start_ns: int
    end_ns: int


class Instrument:
    """Times every call of `machine` from now on; there is no way to stop it again.

    A call that is timed takes a microsecond or two longer, nearly all of it outside of what is
    timed.
    """

    def __init__(self, machine: Any) -> None:
        self._names: list[str | None] = []
        self._times: list[int] = []
        machine["set_instrument"](self._recorder())

    def _recorder(self) -> Any:
        # It is called before and after each call: what it does is kept to the least.
        name_of, time_of, clock = self._names.append, self._times.append, time.perf_counter_ns

        def record(_function: Any, name: str, before: bool, *_values: Any) -> None:
            if before:
                name_of(name)
                time_of(clock())
            else:
                time_of(clock())
                name_of(None)

        return record

    @contextmanager
    def recording(self) -> Iterator[list[TimedCall]]:
        """The calls made in the `with` block, in the order in which they began."""
        self._names.clear()
        self._times.clear()
        calls: list[TimedCall] = []
        collects = gc.isenabled()
        gc.disable()    # a collection would count as a kernel's time
        try:
            yield calls
        finally:
            if collects:
                gc.enable()
            calls += self._calls()

    def _calls(self) -> list[TimedCall]:
        calls: list[TimedCall] = []
        running: list[int] = []
        for name, at in zip(self._names, self._times, strict=True):
            if name is not None:
                running.append(len(calls))
                calls.append(TimedCall(name, at, at))
            else:
                begun = running.pop()
                calls[begun] = calls[begun]._replace(end_ns=at)
        return calls
