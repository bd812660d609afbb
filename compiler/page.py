"""A page of HTML that needs no network: figures, notes, sections, tables that can be sorted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

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
$sections
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


def page(
    title: str,
    facts: Iterable[tuple[str, str]],
    notes: Iterable[str],
    sections: Iterable[tuple[str, str]],
) -> str:
    """The text of a page; `facts` are names and values, `sections` headings and HTML."""
    return PAGE.substitute(
        title=escape(title),
        facts="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts
        ),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        sections="\n".join(f"<h2>{escape(heading)}</h2>\n{html}" for heading, html in sections),
    )


def write(text: str, path: Path) -> None:
    """Write a page to `path`, as a whole or not at all. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def table(
    headers: Sequence[str], figures: Sequence[str], rows: Iterable[str], largest_first: str
) -> str:
    """A table that can be sorted by each column.

    `figures` are the headers of columns of numbers, by `largest_first` of which the rows are sorted
    to begin with; a row is its cells, see `figure`.
    """
    heads = "".join(
        f'<th{_class(header, figures, largest_first)}><button type="button">{header}</button></th>'
        for header in headers
    )
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    head = f"<thead><tr>{heads}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def figure(value: float, text: str) -> str:
    """A cell with a number; `value` is what it is sorted by."""
    return f'<td class="figure" data-value="{value}">{escape(text)}</td>'


def _class(header: str, figures: Sequence[str], largest_first: str) -> str:
    sort = ' aria-sort="descending"' if header == largest_first else ""
    return f' class="figure"{sort}' if header in figures else ""
