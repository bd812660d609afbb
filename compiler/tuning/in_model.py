"""What kernels take inside the model: the untuned bundle profiled, and raced against the tuned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
PROFILES, ROSE = 2, 1.03    # of either bundle, the less counts; a kernel's time in them
RACE_MS, ROUNDS, TURN = 8000.0, 10, 10    # the same of a race, whose turns are this many runs


@dataclass(frozen=True)
class InModel:
    """A bundle on the device: microseconds of its kernels, by their workloads' texts.

    Every entry ran once. `rest_us` are those of kernels without a template, by their functions.
    """

    kernels_us: Mapping[str, float]
    rest_us: Mapping[str, float]
    threads: int
    info: DeviceInfo | None

    @property
    def all_us(self) -> Mapping[str, float]:
        """By workloads, and by functions where a kernel has none."""
        return {**self.kernels_us, **self.rest_us}

    @property
    def total_us(self) -> float:
        return sum(self.kernels_us.values()) + sum(self.rest_us.values())


@dataclass(frozen=True)
class Slower:
    """A kernel that gained alone, and took longer in the model: microseconds of all its calls.

    `workload` is its function where no template made it.
    """

    workload: str
    default_us: float
    tuned_us: float

    def __str__(self) -> str:
        return (
            f"{self.workload}: all calls took {self.tuned_us:.4g} us inside the tuned model, "
            f"{self.default_us:.4g} us untuned, although a call alone is faster"
        )


def sizes_of(manifest: Manifest, wanted: Mapping[str, int | str]) -> list[dict[str, int]]:
    """The sizes to run each entry at: `wanted`, else usual ones, where it leaves them open.

    Raises BadDim for a size that is not allowed.
    """
    picked = pick_sizes(manifest.dims, wanted)
    each = [picked | dict(entry.dims) for entry in Signature(manifest).entries]
    return [sizes for place, sizes in enumerate(each) if sizes not in each[:place]]


def profiled(
    session: Session, sizes: Sequence[Mapping[str, int]], tell: Progress,
    step: str = "timing the untuned model",
) -> InModel:
    """What the kernels of a bundle take at all of `sizes`. Raises as Session does."""
    manifest = session.bundle.manifest
    signature = Signature(manifest, session.level)
    taken: dict[str, float] = defaultdict(float)
    rest: dict[str, float] = defaultdict(float)
    for place, at in enumerate(sizes):
        tell(step, place / len(sizes))
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
        first = max(session.time(arrays, warmup=1, runs=1)[0] for session in times)
        runs = _runs(first, patience, TURN)     # of both: the least of more runs is less
        for turn in range(ROUNDS):
            tell("racing the tuned model", (place + turn / ROUNDS) / len(sizes))
            # The order changes, so that neither always finds the other's heat.
            for session in (default, tuned) if turn % 2 else (tuned, default):
                times[session] += session.time(arrays, 1, runs)
        found.append(Compared(dict(at), tuple(times[default]), tuple(times[tuned])))
    return tuple(found)


def slower(
    default: Session, tuned: Session, sizes: Sequence[Mapping[str, int]], tell: Progress
) -> Iterator[Slower]:
    """The kernels of other points that take longer inside the model. Raises as Session does."""
    followed = {
        each.workload or each.function for each in tuned.bundle.manifest.kernels if each.tuned
    }
    found: dict[Session, list[Mapping[str, float]]] = {default: [], tuned: []}
    for _ in range(PROFILES if followed else 0):
        for session, profiles in found.items():
            step = "timing kernels in both models"
            profiles.append(profiled(session, sizes, tell, step).all_us)
    # Fused in another way, a function may be in one of them alone.
    both = followed.intersection(*(profile for each in found.values() for profile in each))
    for workload in sorted(both):
        before, after = (
            min(profile[workload] for profile in profiles) for profiles in found.values()
        )
        if after > before * ROSE:
            yield Slower(workload, before, after)


def _runs(first_ms: float, patience_ms: float, most: int) -> int:
    return max(1, min(most, int(patience_ms / max(first_ms, 1e-3))))
