"""Tables, records and plots of the cases that are finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.plots import plot_ratios, plot_shares
from bench.table import model_page, summary

Record = dict[str, Any]


def share_limits(records: Sequence[Record]) -> None:
    """Give all records of as many threads the highest limit that was measured beside one of them.

    A limit is measured in a moment, and the machine may have been busy in that moment.
    """
    for record in records:
        for precision in record["peaks"]:
            found = [other["peaks"][precision] for other in records
                     if other["threads"] == record["threads"]]
            known = [peak for peak in found if peak is not None]
            record["peaks"][precision] = max(known, default=None)


def write_results(cases: Sequence[Case], output: Path) -> str:
    """Write what is finished of `cases` to the folder `output`, and return the summary."""
    records = [json.loads(case.path.read_text()) for case in cases if case.path.exists()]
    if not records:
        return "Nothing is measured yet."
    share_limits(records)
    output.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(record["model"] for record in records):
        own = [record for record in records if record["model"] == name]
        (output / f"{name}.json").write_text(json.dumps(own, indent=1) + "\n")
        (output / f"{name}.md").write_text(model_page(own))
    text = summary(records)
    (output / "summary.md").write_text(text)
    plot_ratios(records, output / "ratios.png")
    plot_shares(records, output / "shares.png")
    return f"{text}\nTables, records and plots are in {output}."
