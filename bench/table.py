"""Finished cases as Markdown: a page a model, and a summary of all."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from pocketformer.compiler.tables import human_bytes

Record = dict[str, Any]
OURS = {
    "float32": "pocketformer", "bfloat16": "pocketformer-bf16", "int8": "pocketformer-int8",
    "int8-dynamic": "pocketformer-int8-dynamic",
}

NOTES = """\
Each engine runs in a process of its own, which stands still while others have their turn. A cell is
the minimum of all calls and their median, in milliseconds. The ratio is that of our minimum to the
fastest other engine's of the same precision; the share is that of the arithmetic limit, which is
what a loop of multiply-adds on registers alone takes for the model's products. Weights other than
MiniLM's are random."""


def model_page(records: Sequence[Record]) -> str:
    """A section on one model: the machine, the speeds at all sizes, errors and costs, refusals."""
    first = records[0]
    return "\n".join([
        f"## {first['model']}",
        "",
        *_machine(records),
        "",
        *_speeds(records),
        "",
        NOTES,
        "",
        *_details(records),
        "",
        *_refusals(records),
    ])


def summary(records: Sequence[Record]) -> str:
    """Our ratios to the fastest peer, a line a model and its sizes, and their geometric means."""
    lines = ["## All models", "", *_machine(records), ""]
    threads = sorted({record["threads"] for record in records})
    for precision in OURS:
        table = [
            (record, found) for record in records if (found := ratio(record, precision)) is not None
        ]
        if not table:
            continue
        lines += [
            f"Our time beside the fastest peer's, {precision}:",
            "",
            "| model | batch | length |"
            + "".join(f" threads {count} | fastest peer |" for count in threads),
            "|---|---|---|" + "---|---|" * len(threads),
        ]
        rows: dict[tuple[str, ...], dict[int, tuple[float, str]]] = {}
        for record, found in table:
            rows.setdefault(_place(record), {})[record["threads"]] = found
        for place, cells in rows.items():
            told = [f"{cells[n][0]:.3f} | {cells[n][1]}" if n in cells else " | " for n in threads]
            lines.append("| " + " | ".join([*place, *told]) + " |")
        means = [
            statistics.geometric_mean(cells[n][0] for cells in rows.values() if n in cells)
            if any(n in cells for cells in rows.values()) else None for n in threads
        ]
        told = [f"{mean:.3f} | " if mean else " | " for mean in means]
        lines += ["| geometric mean | | | " + " | ".join(told) + " |", ""]
    return "\n".join(lines)


def ratio(record: Record, precision: str = "float32") -> tuple[float, str] | None:
    """Our minimum by the fastest peer's, and who that is; None where one of them has none."""
    timed = {engine["name"]: engine for engine in record["engines"]
             if engine["precision"] == precision and "min_ms" in engine}
    peers = [engine for name, engine in timed.items() if not name.startswith("pocketformer")]
    if OURS[precision] not in timed or not peers:
        return None
    best = min(peers, key=lambda engine: engine["min_ms"])
    return timed[OURS[precision]]["min_ms"] / best["min_ms"], best["label"]


def share(record: Record, engine: Record) -> float | None:
    """How much of the arithmetic limit of its precision an engine reaches; None if unknown."""
    peak = record["peaks"].get(engine["precision"].removesuffix("-dynamic"))
    if peak is None or "min_ms" not in engine:
        return None
    return float(record["operations"] / (peak * 1e9) / (engine["min_ms"] * 1e-3))


def _place(record: Record) -> tuple[str, ...]:
    sizes = record["sizes"]
    return (record["model"], str(sizes["batch"]), str(sizes.get("seq", "")))


def _machine(records: Sequence[Record]) -> list[str]:
    machine = records[-1]["machine"]
    versions = {
        **machine["versions"],
        **{name: number for record in records for engine in record["engines"]
           for name, number in engine["versions"].items()},
    }
    peaks = {record["threads"]: record["peaks"] for record in records}
    lines = [
        f"{machine['processor']} (family {machine['family']}, model {machine['model']}), "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB; {', '.join(machine['isa'])}.",
        f"{machine['system']}, Python {machine['python']}, "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}.",
        f"Measured from {min(r['machine']['measured'] for r in records)} "
        f"to {max(r['machine']['measured'] for r in records)}.",
    ]
    for threads, found in sorted(peaks.items()):
        told = [f"{precision} {'none' if value is None else f'{value:.0f}'}"
                for precision, value in found.items()]
        lines.append(f"Multiply-adds of {threads} thread{'s' * (threads > 1)} on registers alone, "
                     f"GFLOP/s: {', '.join(told)}.")
    if sources := sorted(_sources(records))[1:]:
        lines.append(f"These cases are of {len(sources) + 1} versions of our sources.")
    if any(record["effort"] != "full" for record in records):
        lines.append("A quick run: few calls, no figures to rely on.")
    return lines


def _sources(records: Iterable[Record]) -> set[str]:
    return {engine["versions"]["pocketformer"] for record in records
            for engine in record["engines"] if "pocketformer" in engine["versions"]}


def _speeds(records: Sequence[Record]) -> list[str]:
    labels = {engine["name"]: engine["label"] for record in records for engine in record["engines"]}
    lines = [
        f"| batch | length | threads | {' | '.join(labels.values())} | ratio | share |",
        "|---|---|---|" + "---|" * (len(labels) + 2),
    ]
    for record in records:
        engines = {engine["name"]: engine for engine in record["engines"]}
        cells = [_time(engines.get(name, {})) for name in labels]
        ours = engines.get(OURS["float32"], {"precision": "float32"})
        found, reached = ratio(record), share(record, ours)
        lines.append(
            f"| {' | '.join(_place(record)[1:])} | {record['threads']} | {' | '.join(cells)} | "
            f"{'' if found is None else f'{found[0]:.3f}'} | "
            f"{'' if reached is None else f'{reached:.0%}'} |"
        )
    return lines


def _time(engine: Record) -> str:
    if "min_ms" not in engine:
        return "refuses" if "refused" in engine else ""
    return f"{engine['min_ms']:.2f} ({engine['median_ms']:.2f})"


def _details(records: Sequence[Record]) -> list[str]:
    """What loading, memory and compiling cost, and the errors: of the case of least work."""
    record = min(records, key=lambda each: (each["threads"], each["operations"]))
    lines = [
        f"At batch {record['sizes']['batch']}"
        + (f", length {record['sizes']['seq']}" if "seq" in record["sizes"] else "")
        + "; memory is the peak of loading and running, less the engine's own libraries; the error "
        "is the largest difference to onnxruntime at any size, relative to the largest value:",
        "",
        "| engine | load ms | memory | error | compiling: seconds | peak memory | bundle |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine in record["engines"]:
        if "min_ms" not in engine:
            continue
        errors = [each["error"] for one in records for each in one["engines"]
                  if each["name"] == engine["name"] and "min_ms" in each]
        made = engine.get("compiling")
        compiling = ["", "", ""] if made is None else [
            f"{made['seconds']:.1f}", human_bytes(made["peak_bytes"]),
            human_bytes(made["bundle_bytes"])]
        lines.append(f"| {engine['label']} | {engine['load_ms']:.0f} | "
                     f"{human_bytes(engine['run_bytes'])} | {max(errors):.1e} | "
                     f"{' | '.join(compiling)} |")
    return lines


def _refusals(records: Sequence[Record]) -> list[str]:
    told: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for engine in record["engines"]:
            if "refused" in engine:
                size = " x ".join(_place(record)[1:]).removesuffix(" x ")
                sizes = told.setdefault((engine["label"], engine["refused"]), [])
                if size not in sizes:
                    sizes.append(size)
    if not told:
        return []
    return ["Refused, by batch and length:", "", *(
        f"- {label} ({', '.join(sizes)}): {reason}" for (label, reason), sizes in told.items()), ""]
