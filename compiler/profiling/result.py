"""Profile: where the time of a run went, call by call, and beside the device's limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

COMPUTE, MEMORY, CACHE = "compute", "memory", "cache"


@dataclass(frozen=True)
class Limits:
    """What the device does at best with so many threads, measured on it by kernels of our own.

    `gflops` are float32 multiply-adds counted twice, `short` those of other dtypes for which the
    device has an instruction; `memory_gbs` and `cache_gbs` are gigabytes read a second. A kernel
    that moves at most `cache_bytes` is compared with the cache.
    """

    gflops: float
    memory_gbs: float
    cache_gbs: float
    cache_bytes: int
    how: str = "measured"
    short: Mapping[str, float] = field(default_factory=dict)

    def least_ms(self, operations: int, moved: int, precision: str) -> tuple[float, str]:
        """The least time for so much work, with products of `precision`, and what sets it."""
        gflops = self.short.get(precision, self.gflops)
        place, rate = (
            (CACHE, self.cache_gbs) if moved <= self.cache_bytes else (MEMORY, self.memory_gbs)
        )
        return max((operations / gflops / 1e6, COMPUTE), (moved / rate / 1e6, place))


@dataclass(frozen=True)
class Call:
    """A call of a kernel; `ms` is the median over the runs, `least_ms` the least of them.

    In the run that pictures show, it began at `start_ms` and took `shown_ms`.

    `operators` are the source operators that it computes, by name and by kind. `operations` and
    `bytes` are None where the bundle does not tell them. `precision` is the dtype that it
    multiplies.
    """

    function: str
    kernel: str
    kind: str
    workload: str
    operators: tuple[str, ...]
    operator_kinds: tuple[str, ...]
    operations: int | None
    bytes: int | None
    ms: float
    least_ms: float
    start_ms: float
    shown_ms: float
    precision: str = "float32"


@dataclass(frozen=True)
class Group:
    """Calls taken together; `ms` is their sum, `share` its part of all kernels' time.

    `limit` is what they are nearer to, `of_limit` how near: 1.0 is as fast as the device can in
    their own `precision`, a dtype or several: "float32, int8".
    """

    name: str
    calls: int
    ms: float
    share: float
    gflops: float | None
    gbs: float | None
    limit: str
    of_limit: float | None
    precision: str


@dataclass(frozen=True)
class Kernel(Group):
    """All calls of one kernel, whose function is `name`."""

    kernel: str = ""
    kind: str = ""
    workload: str = ""
    operators: tuple[str, ...] = ()
    operator_kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """Where the time of a run of a bundle went, in milliseconds; medians over `runs` runs.

    `latency_ms` is a run's without the instrument, `fastest_ms` the fastest one's. `between_ms`
    passes between kernels, without the instrument; `overhead_ms` is what that adds to a run, and
    `instrument_us` what it adds to a kernel's time. `shown_ms` is the length of the run that the
    calls' `start_ms` belong to.
    """

    bundle: str
    target: str
    device: str
    emulated: bool
    threads: int
    sizes: Mapping[str, int]
    entry: str
    runs: int
    latency_ms: float
    fastest_ms: float
    between_ms: float
    overhead_ms: float
    instrument_us: float
    shown_ms: float
    calls: tuple[Call, ...]
    limits: Limits | None = None
    notes: tuple[str, ...] = ()
    machine_calls: int = 0    # of the virtual machine's own functions

    @property
    def kernels_ms(self) -> float:
        return sum(call.ms for call in self.calls)

    @property
    def accounted(self) -> float:
        """Kernels and what is between them, as a part of a run: 1.0 on a quiet machine."""
        return (self.kernels_ms + self.between_ms) / self.latency_ms

    @property
    def unattributed_ms(self) -> float:
        """The time of kernels behind which no source operator is known."""
        return sum(call.ms for call in self.calls if not call.operators)

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels, the one that takes most time first."""
        return sorted(self._kernels(), key=lambda kernel: -kernel.ms)

    def _kernels(self) -> Iterator[Kernel]:
        for name, calls in _grouped((call.function, call) for call in self.calls):
            first = calls[0]
            yield Kernel(
                **asdict(self._group(name, calls)),
                kernel=first.kernel,
                kind=first.kind,
                workload=first.workload,
                operators=_all(call.operators for call in calls),
                operator_kinds=_all(call.operator_kinds for call in calls),
            )

    @property
    def kinds(self) -> list[Group]:
        """The kinds of kernels, the one that takes most time first."""
        return self._sorted((call.kind, call) for call in self.calls)

    @property
    def operator_kinds(self) -> list[Group]:
        """The kinds of source operators that are computed together, most time first."""
        return self._sorted((_joined(call.operator_kinds), call) for call in self.calls)

    def _sorted(self, calls: Iterable[tuple[str, Call]]) -> list[Group]:
        groups = [self._group(name, members) for name, members in _grouped(calls)]
        return sorted(groups, key=lambda group: -group.ms)

    def _group(self, name: str, calls: list[Call]) -> Group:
        ms = sum(call.ms for call in calls)
        known = [(call.operations, call.bytes) for call in calls]
        precisions = [call.precision for call in calls]
        gflops = gbs = of_limit = None
        limit = ""
        if ms > 0 and all(done is not None and moved is not None for done, moved in known):
            work = [(done or 0, moved or 0) for done, moved in known]
            gflops = sum(done for done, _ in work) / ms / 1e6
            gbs = sum(moved for _, moved in work) / ms / 1e6
            if self.limits:
                least = [
                    self.limits.least_ms(*each, precision)
                    for each, precision in zip(work, precisions, strict=True)
                ]
                of_limit = sum(time for time, _ in least) / ms
                limit = max(least)[1]
        share = ms / self.kernels_ms if self.kernels_ms else 0.0
        return Group(
            name, len(calls), ms, share, gflops, gbs, limit, of_limit,
            precision=", ".join(sorted(set(precisions))),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, as `--json` prints it."""
        return {
            "bundle": self.bundle,
            "target": self.target,
            "device": {"name": self.device, "emulated": self.emulated},
            "threads": self.threads,
            "sizes": dict(self.sizes),
            "entry": self.entry,
            "runs": self.runs,
            "latency_ms": self.latency_ms,
            "fastest_ms": self.fastest_ms,
            "kernels_ms": self.kernels_ms,
            "between_ms": self.between_ms,
            "unattributed_ms": self.unattributed_ms,
            "accounted": self.accounted,
            "instrument": {
                "ms_a_run": self.overhead_ms,
                "us_a_kernel": self.instrument_us,
                "machine_calls": self.machine_calls,
            },
            "limits": asdict(self.limits) if self.limits else None,
            "notes": list(self.notes),
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "kinds": [asdict(group) for group in self.kinds],
            "operator_kinds": [asdict(group) for group in self.operator_kinds],
            "calls": [asdict(call) for call in self.calls],
        }

    def save_html(self, path: str | Path) -> None:
        """Write the profile as one page with pictures, which needs no network.

        Raises MissingPackage without matplotlib.
        """
        from pocketformer.compiler.profiling.page import write_page

        write_page(self, Path(path))


def _all(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))


def _joined(kinds: tuple[str, ...]) -> str:
    return " + ".join(kinds) or "unknown"


def _grouped(calls: Iterable[tuple[str, Call]]) -> Iterator[tuple[str, list[Call]]]:
    groups: dict[str, list[Call]] = {}
    for name, call in calls:
        groups.setdefault(name, []).append(call)
    yield from groups.items()
