"""Times the points of a job on a device: in turns, against the reference, to a wanted spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.job import Job

if TYPE_CHECKING:
    from pocketformer.compiler.device.info import DeviceInfo


@dataclass(frozen=True)
class Timing:
    """What one call of a point's kernel takes.

    `ratio` is the median of its times, each over the reference's of the same round; `us` is that
    times the reference's median in microseconds. `spread` is how far off `ratio` may be, as a share
    of it (the standard error of a median). `runs` are the calls that were timed.
    """

    us: float
    ratio: float
    spread: float
    runs: int


@dataclass(frozen=True)
class Measured:
    """The timings of a job's points, in their order; a text is the error of that point.

    `threads` are those that really ran, `level` the bundle's. `info` is what the device told of
    itself, None in this process. `celsius` and `mhz` are the device's afterwards, None where it
    does not tell.
    """

    timings: tuple[Timing | str, ...]
    threads: int
    level: str
    info: DeviceInfo | None
    celsius: float | None = None
    mhz: float | None = None


def measure(
    session: Session, job: Job, *, target_spread: float = 0.01, seconds: float = 1.0
) -> Measured:
    """Time the bundle of `job`, which `session` has opened, for at most about `seconds`.

    Ends when every point's spread is at most `target_spread`. Raises what Session.profile does.
    """
    raise AssertionError("part E is writing this")
