"""The limits of a device: kernels that do nothing but form products, or read, timed on it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.errors import BadBundle, UnknownTarget
from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.manifest_records import TargetRecord
from pocketformer.compiler.profiling.result import Limits
from pocketformer.compiler.session import Session
from pocketformer.targets import CoreCluster, Target
from pocketformer.targets import load as load_target

LONG_NS = 5e5           # long enough for a clock, short enough for some to be undisturbed
TRIES = 15              # the fastest counts: a limit is what is possible
MEMORY_KIB = 64 << 10   # more than the caches of all but servers hold
MOST_KIB = 256 << 10
LARGEST_COUNT = 1 << 20
L1, L2 = 32 << 10, 256 << 10    # of a core, where the target cannot be asked
ANDROID_API = 24

Open = Callable[[Bundle], Session]


def measure_limits(record: TargetRecord, open_session: Open) -> Limits:
    """The limits, with the threads that a session has which `open_session` opens.

    The kernels are compiled for the target on the first call and kept. Raises LinkFailed, and what
    a session raises.
    """
    target = target_of(record)
    with open_session(_peaks(target, record)) as session:
        return _measure(session, target)


def _measure(session: Session, target: Target) -> Limits:
    from pocketformer.compiler.profiling.peaks import (
        KIB,
        READ,
        ROUNDS,
        THREADS,
        TIMES,
        kernel_of,
        operations,
    )

    threads = session.threads
    cache_kib = max(1, target.l2 // 2048)

    def best(rounds: int, kib: int, times: int) -> dict[str, float]:
        """Nanoseconds by kernel."""
        counts = {THREADS: threads, ROUNDS: rounds, KIB: kib, TIMES: times}
        given = {name: np.zeros(count, np.uint8) for name, count in counts.items()}
        found: dict[str, list[int]] = defaultdict(list)
        for run in session.profile(given, TRIES):
            for name, start, end in run:
                found[name].append(end - start)
        return {name: float(min(taken)) for name, taken in found.items()}

    first = best(1000, cache_kib, 8)
    work = operations(target, threads, rounds=1)
    rounds = _enough(1000, min(first[kernel_of(dtype)] for dtype in work))
    times = _enough(8, first[READ])
    memory_kib = min(MOST_KIB, max(MEMORY_KIB, 2 * target.l3 // 1024)) // threads
    in_cache, in_memory = best(rounds, cache_kib, times), best(1, memory_kib, 1)
    products = {
        dtype: rounds * count / in_cache[kernel_of(dtype)] for dtype, count in work.items()
    }
    return Limits(
        gflops=products.pop("float32"),
        short=products,
        memory_gbs=threads * memory_kib * 1024 / in_memory[READ],
        cache_gbs=threads * cache_kib * 1024 * times / in_cache[READ],
        cache_bytes=threads * target.l2,
    )


def _enough(count: int, took_ns: float) -> int:
    """`count`, or so many more that they take long enough."""
    return min(LARGEST_COUNT, int(count * max(1.0, LONG_NS / max(took_ns, 1.0))))


def target_of(record: TargetRecord) -> Target:
    """The target that a bundle was made for; without its caches where it has no name here."""
    try:
        variants = load_target(record.name).variants
    except UnknownTarget:
        variants = ()
    made_for = record.arch, record.os, record.mcpu, frozenset(record.isa)
    for target in variants:
        if (target.arch, target.os, target.mcpu, target.isa) == made_for:
            return target
    cores = CoreCluster(record.name, record.threads, record.mcpu, L1, L2, 0.0)
    return Target(
        name=record.name,
        description="",
        arch=record.arch,
        os=record.os,
        mcpu=record.mcpu,
        mattr=tuple(f"+{feature}" for feature in record.features),
        isa=frozenset(record.isa),
        cores=(cores,),
        android_api=ANDROID_API if record.os == "android" else None,
    )


def _peaks(target: Target, record: TargetRecord) -> Bundle:
    """The bundle of the kernels, compiled once for each target and version."""
    from pocketformer import __version__
    from pocketformer.compiler.profiling.peaks import compile_peaks, kernels

    made_for = [asdict(record), target.l2, *kernels(target), __version__, version_of("apache-tvm")]
    key = hashlib.sha256(json.dumps(made_for, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder("peaks") / key
    try:
        return Bundle.load(path, check_machine=False)
    except BadBundle:
        compile_peaks(target).save(path)
        return Bundle.load(path, check_machine=False)
