"""The results of a run as Markdown."""

from __future__ import annotations

from typing import Any

from pocketformer.compiler.report import human_bytes

Record = dict[str, Any]

NOTES = """\
Each engine runs in a process of its own, in turns of ten calls. The ratio is that of the minima, to
the faster of onnxruntime's rows. Memory is the peak of loading and running, less the engine's own
libraries. The error is the largest difference to onnxruntime, relative to the largest value."""


def markdown(record: Record) -> str:
    """A section on one model: the machine, the speeds, and what compiling costs."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    sizes = ", ".join(f"{name} {size}" for name, size in record["sizes"].items())
    lines = [
        f"## {record['model']}: {sizes}, float32",
        "",
        f"{machine['processor']} (family {machine['family']}, model {machine['model']}), "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB; {', '.join(machine['isa'])}.",
        f"{machine['system']}, Python {machine['python']}, {versions}. {machine['measured']}.",
        "",
        *_speeds(record),
        "",
        *_elsewhere(record),
        *_compilations(record),
        "",
    ]
    return "\n".join(lines)


def _speeds(record: Record) -> list[str]:
    lines = [
        "| threads | engine | min ms | median ms | of onnxruntime's | load ms | memory | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for race in record["races"]:
        engines = race["engines"]
        best = min(each["min_ms"] for each in engines if "onnxruntime" in each["label"])
        for engine in engines:
            error = record["errors"].get(engine["label"])
            lines.append(
                f"| {race['threads']} | {engine['label']} | {engine['min_ms']:.2f} | "
                f"{engine['median_ms']:.2f} | {engine['min_ms'] / best:.3f} | "
                f"{engine['load_ms']:.1f} | {human_bytes(engine['run_bytes'])} | "
                f"{'' if error is None else f'{error:.1e}'} |"
            )
    return [*lines, "", NOTES]


def _elsewhere(record: Record) -> list[str]:
    errors = record["errors_elsewhere"]
    if not errors:
        return []
    listed = ", ".join(f"{size}: {error:.1e}" for size, error in errors.items())
    return [f"Largest error of the symbolic bundle at other sizes: {listed}.", ""]


def _compilations(record: Record) -> list[str]:
    lines = [
        f"Weights: {human_bytes(record['weight_bytes'])}.",
        "",
        "| compiled | seconds | peak memory | times the weights | bundle |",
        "|---|---|---|---|---|",
    ]
    for name, made in record["compilations"].items():
        times = made["peak_bytes"] / record["weight_bytes"]
        lines.append(
            f"| {name} | {made['seconds']:.1f} | {human_bytes(made['peak_bytes'])} | "
            f"{times:.2f} | {human_bytes(made['bundle_bytes'])} |"
        )
    return lines
