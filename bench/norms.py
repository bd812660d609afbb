"""Time norms and softmax of rows beside onnxruntime's: stacks of them, a process an engine."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.onnx_files import around
from bench.small_rows import TURNS
from pocketformer.compiler.worker import Worker

COUNT = 32     # operators of a stack: a call's own cost is small, as in a model
CASES = (("layer", 128, 384), ("layer", 128, 768), ("skip", 128, 384), ("skip", 128, 768),
         ("skip", 7, 384), ("softmax", 1536, 128), ("softmax", 768, 512), ("softmax", 128, 100))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.norms", description=__doc__)
    parser.add_argument("--target", default="host", help="whose code to run here (default: host)")
    parser.add_argument("--seconds", type=float, default=0.1, help="of a turn (default: 0.1)")
    wanted = parser.parse_args()
    print(f"Microseconds of an operator in a stack of {COUNT}, one thread, least of {TURNS} turns; "
          "skip adds a residual first.\n\n"
          "| operator | rows | size | ours | onnxruntime | ratio |\n|---|---|---|---|---|---|")
    for kind, rows, size in CASES:
        ours, theirs = race(kind, rows, size, wanted)
        print(f"| {kind} | {rows} | {size} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |",
              flush=True)


def race(kind: str, rows: int, size: int, wanted: argparse.Namespace) -> list[float]:
    """Microseconds of an operator: ours for any number of rows, and onnxruntime's."""
    with tempfile.TemporaryDirectory(prefix="pocketformer-norms-") as folder, \
            Worker("bench.small_rows:Ours") as ours, \
            Worker("bench.small_rows:Onnxruntime") as peer:
        path = str(write_stack(Path(folder) / "stack.onnx", kind, size))
        ours.ask("load", path=path, width=size, rows=None, target=wanted.target)
        peer.ask("load", path=path, width=size)
        first, second = (np.array(each.ask("sample", rows=rows)["result"]) for each in (ours, peer))
        np.testing.assert_allclose(first, second, atol=1e-4 * abs(second).max())
        turns = [
            [each.ask("time", rows=rows, seconds=wanted.seconds)["result"] for each in (ours, peer)]
            for _ in range(TURNS)
        ]
        return [1e6 * min(times) / COUNT for times in zip(*turns, strict=True)]


def write_stack(path: Path, kind: str, size: int) -> Path:
    """An ONNX file: x[rows, size], COUNT operators one after the other, y."""
    import onnx
    from onnx import helper

    random = np.random.default_rng(0)
    nodes: list[Any] = []
    weights = {}
    for at in range(COUNT):
        given, result = "x" if at == 0 else f"h{at}", "y" if at == COUNT - 1 else f"h{at + 1}"
        if kind == "softmax":
            nodes.append(helper.make_node("Softmax", [given], [result], axis=-1))
            continue
        if kind == "skip":
            nodes.append(helper.make_node("Add", [given, "x"], [f"sum{at}"]))
            given = f"sum{at}"
        for name in (f"scale{at}", f"bias{at}"):
            weights[name] = random.standard_normal(size).astype("float32")
        nodes.append(helper.make_node(
            "LayerNormalization", [given, f"scale{at}", f"bias{at}"], [result], axis=-1))
    end = ("float32", ("rows", size))
    onnx.save(around(nodes, {"x": end}, {"y": end}, weights), path)
    return path


if __name__ == "__main__":
    main()
