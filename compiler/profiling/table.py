"""A profile on the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pocketformer.compiler.profiling.result import COMPUTE, Group, Kernel, Profile
from pocketformer.compiler.tables import facts, plain_table

SMALL = 0.002    # of all kernels' time; kernels below are one row
SHOWN = 3        # operators that are named where they lie in different places


def profile_tables(profile: Profile) -> RenderableType:
    """Kernels, kinds of kernels and of operators, and what the figures mean."""
    return Stack(
        facts(headline(profile)),
        Text(),
        _kernel_table(profile),
        Text(),
        _kind_table("kernels", profile.kinds),
        Text(),
        _kind_table("source operators", profile.operator_kinds),
        *(Text(f"note: {note}", style="yellow") for note in profile.notes),
    )


def headline(profile: Profile) -> list[tuple[str, str]]:
    """The figures of the whole run, named."""
    sizes = ", ".join(f"{name}={size}" for name, size in profile.sizes.items()) or "fixed"
    threads = f"{profile.threads} thread" + "s" * (profile.threads > 1)
    unknown = profile.unattributed_ms
    pairs = [
        ("bundle", f"{profile.bundle} for {profile.target}, sizes {sizes}"),
        ("device", profile.device + (", emulated" if profile.emulated else "") + f", {threads}"),
        (
            "a run",
            f"{milliseconds(profile.latency_ms)}, the fastest of {profile.runs} "
            f"{milliseconds(profile.fastest_ms)}",
        ),
        ("in kernels", f"{milliseconds(profile.kernels_ms)} in {len(profile.calls)} calls"),
        ("between", f"{milliseconds(profile.between_ms)}: memory, shapes, the calls themselves"),
        ("unexplained", f"{milliseconds(unknown)} in kernels of no known source operator"),
        (
            "instrument",
            f"adds {profile.overhead_ms / profile.fastest_ms:.1%} to a run, between the kernels; "
            f"of a kernel's time about {profile.instrument_us:.1f} us",
        ),
    ]
    if profile.limits:
        limits = profile.limits
        short = "".join(f", {gflops:.3g} {dtype}" for dtype, gflops in limits.short.items())
        pairs.append((
            f"limits, {limits.how}",
            f"compute {limits.gflops:.3g} GFLOP/s float32{short}; "
            f"memory {limits.memory_gbs:.3g} GB/s, "
            f"second-level cache {limits.cache_gbs:.3g} GB/s",
        ))
    return pairs


def milliseconds(ms: float) -> str:
    """Three digits: 27.9 ms, 0.17 ms, 3.2 us."""
    return f"{ms * 1e3:.3g} us" if ms < 0.1 else f"{ms:.0f} ms" if ms >= 1000 else f"{ms:.3g} ms"


def speed(group: Group) -> str:
    """GFLOP/s (Gop/s of int8) or GB/s, as the limit is; empty where neither is known."""
    if group.gflops is None or group.gbs is None:
        return ""
    if group.limit == COMPUTE or (not group.limit and group.gflops > group.gbs):
        return f"{group.gflops:.3g} {'Gop/s' if 'int8' in group.precision else 'GFLOP/s'}"
    return f"{group.gbs:.3g} GB/s"


def of_limit(group: Group) -> str:
    """`94% compute`: so near to what the device computes, or reads from memory or cache."""
    return "" if group.of_limit is None else f"{group.of_limit:.0%} {group.limit}"


def short_operators(kernel: Kernel) -> str:
    """The operators' place and kinds: `encoder/layer.#/attention: MatMul, Add`; or their names."""
    names = [re.sub(r"\d+", "#", name) for name in kernel.operators]
    first, last = min(names, default=""), max(names, default="")
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    place = first[:shared]
    place = place[: max(place.rfind(mark) for mark in "/.:") + 1].strip("/.:")
    if place:
        return f"{place}: {', '.join(kernel.operator_kinds)}"
    more = f", +{len(names) - SHOWN}" if len(names) > SHOWN else ""
    return ", ".join(kernel.operators[:SHOWN]) + more


def _kernel_table(profile: Profile) -> Table:
    table = _figures_table("kernel, and the source operators that it computes")
    small: list[Kernel] = []
    for kernel in profile.kernels:
        if kernel.share < SMALL:
            small.append(kernel)
            continue
        name = Text(kernel.kernel, style="bold", overflow="fold")
        name.append(f" {kernel.workload}\n", style="not bold")
        name.append(f"  {short_operators(kernel)}", style="not bold dim")
        table.add_row(name, *_figures(kernel))
    if small:
        calls = sum(kernel.calls for kernel in small)
        ms = sum(kernel.ms for kernel in small)
        share = sum(kernel.share for kernel in small)
        plural = "s" * (len(small) > 1)
        name = Text(f"{len(small)} smaller kernel{plural}")
        table.add_row(name, str(calls), f"{ms:.3f}", f"{share:.1%}")
    return table


def _kind_table(header: str, groups: Sequence[Group]) -> Table:
    table = _figures_table(header)
    for group in groups:
        if group.share >= SMALL:
            table.add_row(escape(group.name), *_figures(group))
    return table


def _figures_table(header: str) -> Table:
    table = plain_table(header)
    for name in ("calls", "ms", "share", "speed", "of limit"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figures(group: Group) -> list[str]:
    return [
        str(group.calls), f"{group.ms:.3f}", f"{group.share:.1%}", speed(group), of_limit(group)
    ]
