"""Time linear layers of few rows beside onnxruntime's: stacks of layers, a process an engine.

Where the weights come from decides what such layers cost. By default a stack's take 32 MiB: each
run streams them from memory or the last cache, as in a model. With --cached they stay in the
second-level cache, which tells the kernels themselves apart, but then two layers may have to share
a call's own cost: some 5 us, ours and onnxruntime's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.attention import fastest, sampled
from bench.onnx_files import around, one_thread
from pocketformer import targets
from pocketformer.compiler.worker import Worker

BYTES = 1 << 25    # of the weights of a stack: a call's own cost is small, as in a model
TURNS = 5          # the machine may be busy: the best of several short turns
CACHED = 0.75      # of the second-level cache: the rest is for rows and code
STACKS = ("384x384", "384x1152", "384x1536", "768x768", "768x2304", "768x3072")
SMALL = ("128x128", "128x384", "128x512", "256x256")    # a cache of 1 MiB holds some of each


class Stack:
    """An engine with a stack of layers; `time` and `sample` take the number of rows."""

    width = 0

    def run(self, x: np.ndarray) -> np.ndarray:
        raise AssertionError("an engine runs its model")

    def rows(self, rows: int) -> np.ndarray:
        return np.random.default_rng(rows).standard_normal((rows, self.width)).astype("float32")

    def time(self, rows: int, seconds: float) -> float:
        x = self.rows(rows)
        return fastest(lambda: self.run(x), seconds)

    def sample(self, rows: int) -> list[float]:
        return sampled(self.run(self.rows(rows)))


class Ours(Stack):
    """A bundle, compiled for any number of rows or for a known one."""

    def __init__(self) -> None:
        from pocketformer import Session, compile

        self._compile, self._session_type = compile, Session

    def load(self, path: str, width: int, rows: int | None, target: str) -> None:
        self.width = width
        dims = {} if rows is None else {"rows": rows}
        bundle = self._compile(path, target=target, dims=dims)
        self._session = self._session_type(bundle, threads=1)

    def run(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(x=x)["y"]


class Onnxruntime(Stack):
    def load(self, path: str, width: int) -> None:
        self.width = width
        self._session = one_thread(path)

    def run(self, x: np.ndarray) -> np.ndarray:
        result: np.ndarray = self._session.run(["y"], {"x": x})[0]
        return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.small_rows", description=__doc__)
    parser.add_argument("stacks", nargs="*", metavar="KxN",
                        help=f"layers K to N and N to K in turn (default: {' '.join(STACKS)}; "
                             f"with --cached those that fit of {' '.join(SMALL)})")
    parser.add_argument("--cached", action="store_true",
                        help=f"as many layers as fill {CACHED:.0%}% of the target's second-level "
                             f"cache, not {BYTES >> 20} MiB")
    parser.add_argument("--rows", default="1-33", help="as 1-33 or 2,4,8 (default: 1-33)")
    parser.add_argument("--known", action="store_true", help="also compile for each number of rows")
    parser.add_argument("--target", default="host", help="whose code to run here (default: host)")
    parser.add_argument("--seconds", type=float, default=0.05, help="of a turn (default: 0.05)")
    wanted = parser.parse_args()
    cache = int(CACHED * targets.load(wanted.target).l2) if wanted.cached else None
    counts = {stack: layers(stack, cache)
              for stack in wanted.stacks or (SMALL if wanted.cached else STACKS)}
    if small := [stack for stack in wanted.stacks if not counts[stack]]:
        parser.error(f"two layers of {small[0]} do not fit into {CACHED:.0%} of the second-level "
                     "cache")
    kept = "stay in the second-level cache" if wanted.cached else f"take some {BYTES >> 20} MiB"
    print(f"Microseconds of a layer in a stack whose weights {kept}, one thread, least of {TURNS} "
          "turns.\n\n"
          "| layers | rows | any | onnxruntime | ratio | known | ratio |\n"
          "|---|---|---|---|---|---|---|")
    for stack, count in counts.items():
        if not count:
            continue
        k, n = map(int, stack.split("x"))
        worst = 0.0
        for rows, *times in race(k, n, count, list(numbers(wanted.rows)), wanted):
            each = [1e6 * seconds / count for seconds in times]
            worst = max(worst, *(ours / each[1] for ours in (each[0], *each[2:])))
            known = f"{each[2]:.1f} | {each[2] / each[1]:.2f}" if wanted.known else "|"
            print(f"| {stack} | {rows} | {each[0]:.1f} | {each[1]:.1f} | {each[0] / each[1]:.2f} "
                  f"| {known} |", flush=True)
        print(f"| {stack} | | | | worst {worst:.2f} | | |", flush=True)


def numbers(text: str) -> Iterator[int]:
    """2, 3, 4, 9 for "2-4,9"."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def layers(stack: str, cache: int | None) -> int:
    """An even number: all that fit into `cache` bytes, or at least 6 that take some BYTES."""
    k, n = map(int, stack.split("x"))
    if cache is not None:
        return cache // (8 * k * n) * 2
    return max(6, BYTES // (8 * k * n) * 2)


def race(
    k: int, n: int, count: int, rows: list[int], wanted: argparse.Namespace
) -> Iterator[tuple[float, ...]]:
    """For each number of rows: it, and the seconds of our code, onnxruntime's, and ours for it."""
    with tempfile.TemporaryDirectory(prefix="pocketformer-rows-") as folder, \
            Worker("bench.small_rows:Ours") as ours, \
            Worker("bench.small_rows:Ours") as known, \
            Worker("bench.small_rows:Onnxruntime") as peer:
        path = str(write_stack(Path(folder) / "stack.onnx", k, n, count))
        ours.ask("load", path=path, width=k, rows=None, target=wanted.target)
        peer.ask("load", path=path, width=k)
        racers = [ours, peer]
        for number in rows:
            if wanted.known:
                known.ask("load", path=path, width=k, rows=number, target=wanted.target)
                racers = [ours, peer, known]
            samples = [np.array(racer.ask("sample", rows=number)["result"]) for racer in racers]
            for sample in samples:
                np.testing.assert_allclose(sample, samples[1], atol=1e-4 * abs(samples[1]).max())
            turns = [
                [racer.ask("time", rows=number, seconds=wanted.seconds)["result"]
                 for racer in racers]
                for _ in range(TURNS)
            ]
            yield (number, *map(min, zip(*turns, strict=True)))


def write_stack(path: Path, k: int, n: int, count: int) -> Path:
    """An ONNX file: x[rows, k], `count` products that widen to n and narrow to k in turn, y."""
    import onnx
    from onnx import helper

    random = np.random.default_rng(0)
    nodes, weights = [], {}
    for layer in range(count):
        shape = (k, n) if layer % 2 == 0 else (n, k)
        weight = random.standard_normal(shape).astype("float32") / np.float32(shape[0] ** 0.5)
        weights[f"w{layer}"] = weight
        left = "x" if layer == 0 else f"h{layer}"
        right = "y" if layer == count - 1 else f"h{layer + 1}"
        nodes.append(helper.make_node("MatMul", [left, f"w{layer}"], [right]))
    end = ("float32", ("rows", k))
    onnx.save(around(nodes, {"x": end}, {"y": end}, weights), path)
    return path


if __name__ == "__main__":
    main()
