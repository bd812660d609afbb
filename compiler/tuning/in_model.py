"""What kernels take inside the model: the untuned bundle profiled, and raced against the tuned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketformer.compiler.example_inputs import make_inputs, pick_sizes
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.profiling.attribution import attribute
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.session import Session
from pocketformer.compiler.signature import Signature
from pocketformer.compiler.tuning.result import Compared

if TYPE_CHECKING:
    from pocketformer.compiler.device.info import DeviceInfo

PROFILE_MS, PROFILED = 2000.0, 20    # about how long an entry is profiled, and the most runs of it
RACE_MS, ROUNDS, TURN = 8000.0, 10, 10    # the same of a race, whose turns are this many runs


@dataclass(frozen=True)
class InModel:
    """The untuned bundle on the device: microseconds of its kernels, by their workloads' texts.

    Every entry ran once. `rest_us` are those of kernels without a template, by their functions.
    """

    kernels_us: Mapping[str, float]
    rest_us: Mapping[str, float]
    threads: int
    info: DeviceInfo | None

    @property
    def total_us(self) -> float:
        return sum(self.kernels_us.values()) + sum(self.rest_us.values())


def sizes_of(manifest: Manifest, wanted: Mapping[str, int | str]) -> list[dict[str, int]]:
    """The sizes to run each entry at: `wanted`, else usual ones, where it leaves them open.

    Raises BadDim for a size that is not allowed.
    """
    picked = pick_sizes(manifest.dims, wanted)
    each = [picked | dict(entry.dims) for entry in Signature(manifest).entries]
    return [sizes for place, sizes in enumerate(each) if sizes not in each[:place]]


def profile_default(
    session: Session, sizes: Sequence[Mapping[str, int]], tell: Progress
) -> InModel:
    """What the kernels of the untuned bundle take at all of `sizes`. Raises as Session does."""
    manifest = session.bundle.manifest
    signature = Signature(manifest, session.level)
    taken: dict[str, float] = defaultdict(float)
    rest: dict[str, float] = defaultdict(float)
    for place, at in enumerate(sizes):
        tell("timing the untuned model", place / len(sizes))
        arrays = make_inputs(manifest.inputs, at)
        (first,) = session.time(arrays, warmup=0, runs=1)
        timed = session.profile(arrays, _runs(first, PROFILE_MS, PROFILED))
        for call in attribute(timed, manifest, signature.entry(at).function, at)[0]:
            if call.workload:
                taken[call.workload] += call.ms * 1e3
            else:
                rest[call.function] += call.ms * 1e3
    return InModel(taken, rest, session.threads, session.device)


def compare(
    default: Session, tuned: Session, sizes: Sequence[Mapping[str, int]], tell: Progress
) -> tuple[Compared, ...]:
    """Run the untuned and the tuned model in turns at each of `sizes`. Raises as Session does."""
    found = []
    patience = RACE_MS / 2 / ROUNDS / len(sizes)
    for place, at in enumerate(sizes):
        arrays = make_inputs(default.inputs, at)
        times: dict[Session, list[float]] = {default: [], tuned: []}
        for turn in range(ROUNDS):
            tell("racing the tuned model", (place + turn / ROUNDS) / len(sizes))
            # The order changes, so that neither always finds the other's heat.
            for session in (default, tuned) if turn % 2 else (tuned, default):
                (first,) = session.time(arrays, warmup=1, runs=1)
                times[session] += session.time(arrays, 0, _runs(first, patience, TURN))
        found.append(Compared(dict(at), tuple(times[default]), tuple(times[tuned])))
    return tuple(found)


def _runs(first_ms: float, patience_ms: float, most: int) -> int:
    return max(1, min(most, int(patience_ms / max(first_ms, 1e-3))))
