"""A profile as one HTML page: figures, two pictures, and a table that can be sorted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from pocketformer.compiler import page as html
from pocketformer.compiler.profiling.pictures import bar_picture, timeline_picture
from pocketformer.compiler.profiling.result import Group, Profile
from pocketformer.compiler.profiling.table import headline, of_limit, speed
from pocketformer.compiler.svg import require_matplotlib

FIGURES = ("calls", "ms", "share", "speed", "of limit")


def write_page(profile: Profile, path: Path) -> None:
    """Write the page to `path`, as a whole or not at all. Raises MissingPackage and OSError."""
    html.write(page(profile), path)


def page(profile: Profile) -> str:
    """The text of the page, which loads nothing else. Raises MissingPackage."""
    require_matplotlib()
    operators = _table(
        ("operators", *FIGURES),
        [(f"<td>{escape(group.name)}</td>", group) for group in profile.operator_kinds],
    )
    return html.page(f"Profile of {profile.bundle}", headline(profile), profile.notes, [
        ("Time by kind of kernel", bar_picture(profile)),
        ("One run", timeline_picture(profile)),
        ("Kernels", _kernels(profile)),
        ("Source operators that are computed together", operators),
    ])


def _kernels(profile: Profile) -> str:
    rows = []
    for kernel in profile.kernels:
        names = "".join(f"{escape(name)}<br>" for name in kernel.operators)
        kinds = escape(", ".join(kernel.operator_kinds) or "unknown")
        name = f"{escape(kernel.kernel)}<br><small>{escape(kernel.workload)}</small>"
        summary = f"<summary>{kinds} ({len(kernel.operators)})</summary>"
        rows.append((
            f'<td class="kernel">{name}</td><td class="kind">{escape(kernel.kind)}</td>'
            f"<td><details>{summary}{names}</details></td>",
            kernel,
        ))
    return _table(("kernel", "kind", "source operators", *FIGURES), rows)


def _table(headers: Sequence[str], rows: Iterable[tuple[str, Group]]) -> str:
    cells = (f"{named}{_figures(group)}" for named, group in rows)
    return html.table(headers, FIGURES, cells, largest_first="ms")


def _figures(group: Group) -> str:
    values = (
        (group.calls, str(group.calls)),
        (group.ms, f"{group.ms:.3f}"),
        (group.share, f"{group.share:.1%}"),
        (group.gflops or 0.0, speed(group)),
        (group.of_limit or 0.0, of_limit(group)),
    )
    return "".join(html.figure(value, text) for value, text in values)
