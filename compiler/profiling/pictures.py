"""A profile's pictures as SVG text: time by kind of kernel, and one run along the clock."""

from __future__ import annotations

from pocketformer.compiler.profiling.result import Call, Profile
from pocketformer.compiler.profiling.table import milliseconds, of_limit, speed
from pocketformer.compiler.svg import COLOURS, drawing, plain, svg

# A kind has the same colour in both pictures.
BETWEEN, BETWEEN_COLOUR = "between kernels", "#c8c8c8"


def bar_picture(profile: Profile) -> str:
    """A bar for each kind of kernel and one for the time between, as the text of an SVG."""
    rows = [
        (group.name, group.ms, f"{group.calls} calls" if group.calls > 1 else "1 call",
         ", ".join(filter(None, (speed(group), of_limit(group)))))
        for group in profile.kinds
    ]
    rows.append((BETWEEN, profile.between_ms, "", ""))
    figure, axes = drawing(0.42 * len(rows) + 0.6)
    colours = _colours(profile)
    most = max(ms for _, ms, _, _ in rows) or 1.0
    for row, (name, ms, calls, rate) in enumerate(rows):
        axes.barh(row, ms, height=0.68, color=colours[name])
        share = f"{ms / (profile.kernels_ms + profile.between_ms or 1):.1%}"
        says = "  ·  ".join(filter(None, (milliseconds(ms), share, calls, rate)))
        axes.text(
            ms + most * 0.008, row, plain(says), va="center", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    axes.set_yticks(range(len(rows)), [plain(name) for name, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.6)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= most])
    axes.set_xlabel("milliseconds of a run")
    return svg(figure, {})


def timeline_picture(profile: Profile) -> str:
    """One run, a lane for each kind of kernel; a kernel's name appears under the pointer."""
    names = [group.name for group in profile.kinds]
    figure, axes = drawing(0.42 * len(names) + 0.7)
    colours, titles = _colours(profile), {}
    hair = profile.shown_ms / 600       # what is shorter is drawn as long as this
    for place, call in enumerate(profile.calls):
        (bar,) = axes.barh(
            names.index(call.kind), max(call.shown_ms, hair), left=call.start_ms, height=0.72,
            color=colours[call.kind], edgecolor="white", linewidth=0.5 * (call.shown_ms > 4 * hair),
        )
        bar.set_gid(f"call-{place}")
        titles[f"call-{place}"] = _title(call)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, profile.shown_ms or 1.0)
    axes.set_xlabel("milliseconds since the run began, the instrument's own time included")
    return svg(figure, titles)


def _title(call: Call) -> str:
    where = f"{call.kernel} {call.workload}".strip()
    operators = ", ".join(call.operators) or "no known source operator"
    return f"{where}\n{milliseconds(call.shown_ms)}\n{operators}"


def _colours(profile: Profile) -> dict[str, str]:
    colours = {
        group.name: COLOURS[i % len(COLOURS)] for i, group in enumerate(profile.kinds)
    }
    return {**colours, BETWEEN: BETWEEN_COLOUR}
