"""Tuning: what a search found, task by task and for the whole model."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.records import Records


@dataclass(frozen=True)
class TaskStatus:
    """How far the search for one kernel is.

    `calls` are those of one run of every entry, `share` is their part of the time that the untuned
    bundle's kernels take. `trials` were told to the search, `known` of them by records from before,
    `failed` had an error; the space has `points`. `gain` is the untuned kernel's time over that of
    the `best` point, measured in the same rounds, and `default_us` the untuned one's. `confirmed`
    tells that a race between the best points and the default one says so.
    """

    key: str
    workload: str
    sizes: Mapping[str, int]
    calls: int
    share: float
    points: int
    trials: int = 0
    known: int = 0
    failed: int = 0
    default_us: float | None = None
    gain: float = 1.0
    best: str = ""
    confirmed: bool = False


@dataclass(frozen=True)
class Compared:
    """The milliseconds of runs of the untuned bundle and of the tuned one, which took turns."""

    sizes: Mapping[str, int]
    default_ms: tuple[float, ...]
    tuned_ms: tuple[float, ...]

    @property
    def gain(self) -> float:
        """How much faster the tuned bundle is: the untuned one's least time over its own."""
        return min(self.default_ms) / min(self.tuned_ms)


@dataclass(frozen=True)
class Tuning:
    """What tuning a model found; `compile(model, target, records=tuning)` uses it.

    `followed` are the workloads for which the tuned model follows a record: where one gains enough.
    `trials` are all of its tasks in the file. `curve` has for each number of trials in this run the
    time that all kernels of the model take with the best points so far, as a share of the untuned
    time; its last places are those after the races, and with the followed ones alone. `records` are
    all of the file at `path`, older ones as well. `compared` is empty where the search was broken
    off.
    """

    model: str
    target: str
    core: str
    device: str
    emulated: bool
    threads: int
    path: str
    tasks: tuple[TaskStatus, ...]
    followed: tuple[str, ...]
    compared: tuple[Compared, ...]
    curve: tuple[tuple[int, float], ...]
    trials: int
    seconds: float
    interrupted: bool
    notes: tuple[str, ...]
    records: Records

    @property
    def kernel_gain(self) -> float:
        """How much faster all kernels of the model are together, by what they take alone.

        Only those that the tuned model follows count; all, where the search was broken off.
        """
        counted = (
            task for task in self.tasks if self.interrupted or task.workload in self.followed
        )
        return 1 / (1 - sum(task.share * (1 - 1 / task.gain) for task in counted))

    @property
    def default_ms(self) -> float | None:
        """The least time of the untuned bundle, all sizes that were compared added up."""
        return sum(min(each.default_ms) for each in self.compared) or None

    @property
    def tuned_ms(self) -> float | None:
        """The same of the tuned bundle, in the same run."""
        return sum(min(each.tuned_ms) for each in self.compared) or None

    @property
    def gain(self) -> float | None:
        """How much faster the tuned bundle is; None where the two were not compared."""
        if not self.default_ms or not self.tuned_ms:
            return None
        return self.default_ms / self.tuned_ms

    def to_dict(self) -> dict[str, Any]:
        """Everything but the records as plain data, as `--json` prints it."""
        plain = {name: value for name, value in vars(self).items() if name != "records"}
        return {
            **plain,
            "tasks": [asdict(task) for task in self.tasks],
            "compared": [
                {
                    "sizes": dict(each.sizes),
                    "runs": len(each.default_ms),
                    "default_ms": min(each.default_ms),
                    "tuned_ms": min(each.tuned_ms),
                    "default_median_ms": statistics.median(each.default_ms),
                    "tuned_median_ms": statistics.median(each.tuned_ms),
                }
                for each in self.compared
            ],
            "followed": list(self.followed),
            "default_ms": self.default_ms,
            "tuned_ms": self.tuned_ms,
            "gain": self.gain,
            "kernel_gain": self.kernel_gain,
            "curve": [list(place) for place in self.curve],
            "notes": list(self.notes),
            "records": len(self.records),
        }

    def save_html(self, path: str | Path) -> None:
        """Write the result as one page with pictures, which needs no network.

        Raises MissingPackage without matplotlib.
        """
        from pocketformer.compiler.tuning.page import write_page

        write_page(self, Path(path))
