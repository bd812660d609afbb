"""Times the points of a job on a device: in turns, against the reference, to a wanted spread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketformer.compiler.errors import DeviceFailed
from pocketformer.compiler.instrument import TimedCall
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.inputs import inputs_of
from pocketformer.compiler.tuning.job import Job

if TYPE_CHECKING:
    from pocketformer.compiler.device.info import DeviceInfo

LEAST_ROUNDS = 16       # unless the time is up
NOISY = 0.05            # a spread that is worth more time
PATIENCE = 3            # times as long as asked for, where it is so noisy
_BLOCK = 0.2            # seconds of runs between two looks at the clock
_MOST_CALLS = 20_000    # in a block: a device tells of all of them in one message
_NORMAL = 1.4826        # standard deviations in a median of deviations
_MEDIAN = 1.2533        # standard errors of a mean in that of a median


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

    `threads` are those that really ran. `info` is what the device told of itself, None in this
    process. `celsius` and `mhz` are the device's afterwards, None where it does not tell.
    """

    timings: tuple[Timing | str, ...]
    threads: int
    info: DeviceInfo | None
    celsius: float | None = None
    mhz: float | None = None


def measure(
    session: Session, job: Job, *, target_spread: float = 0.01, seconds: float = 1.0
) -> Measured:
    """Time the bundle of `job`, which `session` has opened, for about `seconds`.

    Ends earlier when every point's spread is at most `target_spread`, later where one is NOISY.
    Raises what Session.profile does.
    """
    functions = [kernel.function for kernel in session.bundle.manifest.kernels]
    inputs = inputs_of(job, session.inputs)
    until = time.monotonic() + seconds
    session.profile(inputs, 1)      # fills the weights, and touches all memory for the first time
    begun = time.monotonic()
    first = session.profile(None, 1)
    each = time.monotonic() - begun
    most = max(1, _MOST_CALLS // len(first[0]))
    rounds = _rounds(first, functions)
    while True:
        timings = _timings(rounds, functions)
        spread = max(timing.spread for timing in timings)
        left = until - time.monotonic() + (PATIENCE - 1) * seconds * (spread > NOISY)
        if left < each or (spread <= target_spread and timings[0].runs >= LEAST_ROUNDS):
            return Measured(timings, session.threads, session.device)
        count = max(1, min(most, int(min(_BLOCK, left) / each)))
        for name, times in _rounds(session.profile(None, count), functions).items():
            rounds[name] += times


def _rounds(
    runs: Sequence[Sequence[TimedCall]], functions: Sequence[str]
) -> dict[str, list[float]]:
    """Microseconds of each function's calls, one a round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for run in runs:
        for call in run:
            if call.name in times:
                times[call.name].append((call.end_ns - call.start_ns) / 1e3)
    if len({len(each) for each in times.values()}) != 1 or not times[functions[0]]:
        raise DeviceFailed("a profile of kernels lacks some of their calls")
    return times


def _timings(times: dict[str, list[float]], functions: Sequence[str]) -> tuple[Timing, ...]:
    reference = np.array(times[functions[0]])
    unit = float(np.median(reference))
    return tuple(_timing(np.array(times[name]) / reference, unit) for name in functions)


def _timing(ratios: np.ndarray, unit: float) -> Timing:
    ratio = float(np.median(ratios))
    deviation = float(np.median(np.abs(ratios - ratio))) * _NORMAL
    spread = _MEDIAN * deviation / np.sqrt(len(ratios)) / ratio
    return Timing(unit * ratio, ratio, float(spread), len(ratios))
