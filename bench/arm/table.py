"""The judgement of a model as Markdown."""

from __future__ import annotations

from typing import Any

from bench.arm.instructions import Counts
from bench.arm.judge import ESTIMATED, SHOWN

Record = dict[str, Any]

COUNTED = """\
One run of each engine on one thread, in the same emulator. Instructions are counted, not timed:
ours are the same in every run, the others' vary by some hundreds. A multiply-add is an fmla of
vectors or an instruction such as sdot; `each` means a multiply-add. The error is the largest
difference to onnxruntime on a PC, relative to the largest value."""


def markdown(record: Record) -> str:
    """A section on one model: what was executed, estimated times, our kernels, hottest loops."""
    sizes = ", ".join(f"{name} {size}" for name, size in record["sizes"].items())
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    run = [engine for engine in record["engines"] if "counts" in engine]
    recipe = record.get("recipe", "float32")
    return "\n".join([
        f"## {record['model']}{f': {sizes}' if sizes else ''}, {recipe}, on ARM",
        "",
        f"Compiled for {record['target']}, counted on an emulated {record['emulated']}.",
        f"Versions: {versions}.",
        "",
        *_engines(record),
        "",
        COUNTED,
        "",
        *_times(record["cores"], run),
        "",
        *_kernels(run),
        "",
        *_loops(run),
        "",
    ])


def _engines(record: Record) -> list[str]:
    lines = [
        "| engine | instructions | of onnxruntime's | multiply-adds | instructions each |"
        " loads each | stores | of one float | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    known = [each for each in record["engines"] if "counts" in each]
    best = min(
        (Counts(**each["counts"]).total for each in known if "onnxruntime" in each["label"]),
        default=0,
    )
    for engine in record["engines"]:
        if "missing" in engine:
            lines.append(f"| {engine['label']} | {engine['missing']} | | | | | | | |")
            continue
        counts = Counts(**engine["counts"])
        lines.append(
            f"| {engine['label']} | {_millions(counts.total)} | "
            f"{f'{counts.total / best:.3f}' if best else ''} | {_millions(counts.products)} | "
            f"{_each(counts.total, counts)} | {_each(counts.load, counts)} | "
            f"{_millions(counts.store)} | {_millions(counts.scalar)} | {engine['error']:.1e} |"
        )
    return lines


def _times(cores: list[Record], run: list[Record]) -> list[str]:
    names = "".join(f" {core['name']} {core['ghz']:.2f} GHz |" for core in cores)
    return [
        f"Milliseconds, {ESTIMATED}:",
        "",
        f"| engine |{names}",
        f"|---|{'---|' * len(cores)}",
        *(
            f"| {engine['label']} |"
            + "".join(
                f" {engine['cycles'][core['name']] / core['ghz'] * 1e-6:.1f} |" for core in cores
            )
            for engine in run
        ),
    ]


def _kernels(run: list[Record]) -> list[str]:
    """Those of an engine that tells where they begin; equal ones on one line."""
    lines = []
    for engine in (each for each in run if each["kernels"]):
        lines += [
            f"Kernels of {engine['label']}; cycles of a {SHOWN}, {ESTIMATED}:",
            "",
            "| kernel | calls | share | instructions | multiply-adds | instructions each |"
            " loads each | cycles | cycles each |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        whole = Counts(**engine["counts"])
        groups: dict[str, list[Record]] = {}
        for kernel in engine["kernels"]:
            groups.setdefault(kernel["name"], []).append(kernel)
        between = whole.total
        rows = []
        for name, calls in groups.items():
            counts = sum((Counts(**call["counts"]) for call in calls), Counts())
            between -= counts.total
            cycles = sum(call["cycles"] for call in calls)
            rows.append((counts.total, f"| {name} | {len(calls)} | {counts.total / whole.total:.1%}"
                         f" | {_millions(counts.total)} | {_millions(counts.products)} |"
                         f" {_each(counts.total, counts)} | {_each(counts.load, counts)} |"
                         f" {_millions(cycles)} | {_each(cycles, counts)} |"))
        lines += [text for _, text in sorted(rows, reverse=True)]
        lines.append(f"| between kernels | | {between / whole.total:.1%} | {_millions(between)} |"
                     " | | | | |")
    return lines


def _loops(run: list[Record]) -> list[str]:
    lines = [
        f"Hottest code of each engine; cycles of a {SHOWN}, {ESTIMATED}:",
        "",
        "| engine | share | instructions | multiply-adds | instructions each | loads each |"
        " cycles | cycles each |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for engine in run:
        total = Counts(**engine["counts"]).total
        for loop in engine["loops"]:
            counts = Counts(**loop["counts"])
            lines.append(
                f"| {engine['label']} | {counts.total * loop['times'] / total:.1%} | "
                f"{counts.total} | {counts.products} | {_each(counts.total, counts)} | "
                f"{_each(counts.load, counts)} | {loop['cycles']:.1f} | "
                f"{_each(loop['cycles'], counts)} |"
            )
    return lines


def _millions(count: float) -> str:
    return f"{count / 1e6:.3f} M"


def _each(count: float, counts: Counts) -> str:
    return f"{count / counts.products:.3f}" if counts.products else ""
