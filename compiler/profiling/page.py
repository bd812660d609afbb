"""A profile as one HTML page: figures, two pictures, and a table that can be sorted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from pocketformer.compiler.profiling.pictures import (
    bar_picture,
    require_matplotlib,
    timeline_picture,
)
from pocketformer.compiler.profiling.result import Group, Profile
from pocketformer.compiler.profiling.table import headline, of_limit, speed

FIGURES = ("calls", "ms", "share", "speed", "of limit")

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0.5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
svg { width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif; }
svg g[id^="call-"]:hover { opacity: 0.6; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1.2rem; margin: 0; }
dt { font-weight: 600; }
dd { margin: 0; }
.note { background: #fff4d6; border-left: 4px solid #e69f00; padding: 0.4rem 0.8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.87rem; }
th { text-align: left; border-bottom: 2px solid #888; white-space: nowrap; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid #0072b2; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
th, td { padding: 0.25rem 0.7rem 0.25rem 0; vertical-align: top; }
tbody tr:nth-child(odd) { background: #f6f6f6; }
td.figure, th.figure { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; }
td.kernel { min-width: 16rem; }
td.kind { white-space: nowrap; }
td small { color: #666; }
summary { cursor: pointer; color: #555; }
</style>
</head>
<body>
<h1>$title</h1>
<dl>$facts</dl>
$notes
<h2>Time by kind of kernel</h2>
$bars
<h2>One run</h2>
$timeline
<h2>Kernels</h2>
$kernels
<h2>Source operators that are computed together</h2>
$operators
<script>
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").onclick = () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const numbers = head.classList.contains("figure");
    const rows = [...table.tBodies[0].rows].sort((a, b) => numbers
      ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true }));
    table.tBodies[0].append(...(down ? rows.reverse() : rows));
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
</script>
</body>
</html>
""")


def write_page(profile: Profile, path: Path) -> None:
    """Write the page to `path`, as a whole or not at all. Raises MissingPackage and OSError."""
    text = page(profile)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def page(profile: Profile) -> str:
    """The text of the page, which loads nothing else. Raises MissingPackage."""
    require_matplotlib()
    return PAGE.substitute(
        title=escape(f"Profile of {profile.bundle}"),
        facts="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in headline(profile)
        ),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in profile.notes),
        bars=bar_picture(profile),
        timeline=timeline_picture(profile),
        kernels=_kernels(profile),
        operators=_table(
            ("operators", *FIGURES),
            [(f"<td>{escape(group.name)}</td>", group) for group in profile.operator_kinds],
        ),
    )


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
    heads = "".join(
        f'<th{_class(header)}><button type="button">{header}</button></th>' for header in headers
    )
    body = "".join(f"<tr>{cells}{_figures(group)}</tr>" for cells, group in rows)
    head = f"<thead><tr>{heads}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _class(header: str) -> str:
    sort = ' aria-sort="descending"' if header == "ms" else ""
    return f' class="figure"{sort}' if header in FIGURES else ""


def _figures(group: Group) -> str:
    values = (
        (group.calls, str(group.calls)),
        (group.ms, f"{group.ms:.3f}"),
        (group.share, f"{group.share:.1%}"),
        (group.gflops or 0.0, speed(group)),
        (group.of_limit or 0.0, of_limit(group)),
    )
    return "".join(
        f'<td class="figure" data-value="{value}">{escape(text)}</td>' for value, text in values
    )
