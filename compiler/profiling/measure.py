"""profile(): run a bundle, with the instrument and without, and say where the time went."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.errors import BadInput, PocketformerError
from pocketformer.compiler.example_inputs import make_inputs, pick_sizes
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import TargetRecord
from pocketformer.compiler.profiling.attribution import Timed, attribute, kernels_of
from pocketformer.compiler.profiling.gaps import instrument_us, time_between
from pocketformer.compiler.profiling.limits import measure_limits
from pocketformer.compiler.profiling.result import Limits, Profile
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.session import Session
from pocketformer.compiler.signature import Signature

WARMUP = 2
BLOCK, BLOCK_MS = 5, 1000.0    # runs until it is the other way's turn, and about how long they take
NOISY = 0.05    # of a run that may be unaccounted for
SHORT_MS = 0.05    # a kernel on which the few microseconds of the instrument leave a mark


def profile(
    bundle: Bundle | str | os.PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    dims: Mapping[str, int | str] | None = None,
    runs: int = 20,
    threads: int | None = None,
    device: str | None = None,
    token: str | None = None,
    timeout: float = 60.0,
    progress: Progress | None = None,
) -> Profile:
    """Where the time of a run of `bundle` goes, here or on `device`, as Session takes it.

    Without `inputs`, made-up ones of the sizes `dims` are used, as `pocketformer run` does. Runs
    with and without the instrument alternate, `runs` of each. Afterwards the device's limits are
    measured with kernels that do nothing else.

    Raises what Session raises, BadInput for inputs that do not fit, BadDim for such sizes.
    """
    if type(runs) is not int or runs < 1:
        raise BadInput(f"runs is {runs!r}, it must be a whole number from 1 on")
    tell = progress or silent
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle, check_machine=device is None)
    manifest, signature = bundle.manifest, Signature(bundle.manifest)
    given = inputs or make_inputs(manifest.inputs, pick_sizes(manifest.dims, dims or {}))

    def open_session(opened: Bundle) -> Session:
        return Session(
            opened, threads, device=device, token=token, timeout=timeout, progress=progress
        )

    with open_session(bundle) as session:
        sizes = signature.sizes(tuple(array.shape for array in signature.arrays(given)))
        plain, timed = _alternate(session, given, runs, tell)
        info, used, level = session.device, session.threads, session.level
    entry = Signature(manifest, level).entry(sizes).function
    calls, shown_ms = attribute(timed, manifest, entry, sizes)
    least = max(0.0, min(plain) - sum(call.least_ms for call in calls))
    between, overhead = time_between(timed, least)
    tell("measuring the limits", 0.9)
    limits, problems = _limits(manifest.at(level), open_session)
    result = Profile(
        bundle=manifest.name,
        target=manifest.target.name,
        device=info.name if info else "this machine",
        emulated=bool(info and info.emulated),
        threads=used,
        sizes=sizes,
        entry=entry,
        runs=runs,
        latency_ms=statistics.median(plain),
        fastest_ms=min(plain),
        between_ms=between,
        overhead_ms=overhead,
        instrument_us=instrument_us(timed),
        shown_ms=shown_ms,
        calls=tuple(calls),
        limits=limits,
        machine_calls=len(timed[0]) - len(kernels_of(timed[0])),
    )
    return replace(result, notes=(*notes_on(result, manifest), *problems))


def notes_on(result: Profile, manifest: Manifest) -> Iterator[str]:
    """What a reader has to know before he believes the figures."""
    if result.emulated:
        yield "an emulator ran this: its times say nothing about the speed of a phone"
    if not any(record.entry == result.entry for record in manifest.kernels):
        yield "the bundle does not tell what its kernels compute; compile it again"
    if result.accounted > 1 + NOISY and result.kernels_ms < SHORT_MS * len(result.calls):
        yield (
            "the kernels are so short that the instrument slows them down: "
            f"with the time between them they add up to {result.accounted:.0%} of a run"
        )
    elif abs(result.accounted - 1) > NOISY:
        yield (
            "the machine was not quiet: kernels and the time between them add up to "
            f"{result.accounted:.0%} of a run"
        )


def _alternate(
    session: Session, given: Mapping[str, Any], runs: int, tell: Progress
) -> tuple[list[float], list[Timed]]:
    """Milliseconds without the instrument, and what it saw.

    In turns, so that both meet the same moods of the machine.
    """
    tell("warming up", 0.1)
    first = session.time(given, warmup=0, runs=1)[0]
    block = max(1, min(BLOCK, int(BLOCK_MS / first)))
    if block > 1:       # what takes a second is warm already
        session.time(given, warmup=0, runs=WARMUP)
    session.profile(given, 1)
    plain: list[float] = []
    timed: list[Timed] = []
    while len(plain) < runs:
        tell("timing kernels", 0.2 + 0.7 * len(plain) / runs)
        count = min(block, runs - len(plain))
        plain += session.time(given, warmup=int(block > 1), runs=count)
        timed += session.profile(given, count)
    return plain, timed


def _limits(
    target: TargetRecord, open_session: Callable[[Bundle], Session]
) -> tuple[Limits | None, list[str]]:
    try:
        return measure_limits(target, open_session), []
    except (PocketformerError, OSError) as error:    # the second of the cache
        return None, [f"the device's limits are unknown: {error}"]
