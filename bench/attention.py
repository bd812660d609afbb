"""Time attention alone beside onnxruntime's MultiHeadAttention: a process each, in turns."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.kernels import SHAPES, attention
from bench.onnx_files import around, one_thread
from pocketformer.compiler.worker import Worker

TURNS = 6       # the machine may be busy: the best of several short turns
SAMPLES = 1000  # numbers of the result that are compared
APART = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 5e-2}    # how far they may be


class Ours:
    """Our kernel on one thread, for the sizes of a line of shapes/attention.txt or for any."""

    def __init__(self) -> None:
        import tvm

        from pocketformer import targets
        from pocketformer.schedules.cpu import pick

        self._tvm, self._targets, self._pick = tvm, targets, pick

    def load(self, words: list[str], symbolic: bool, target: str) -> None:
        known, any_size, shapes, _ = attention(words)
        chosen = self._targets.load(target)
        func = self._pick(any_size if symbolic else known, chosen).func
        library = self._tvm.compile(
            func.with_attr("global_symbol", "kernel"), target=chosen.tvm())
        self._out = self._tvm.runtime.tensor(np.zeros(shapes[-1], "float32"))
        self._inputs = [self._tvm.runtime.tensor(array) for array in inputs(words)]
        self._kernel = library["kernel"]

    def call(self) -> np.ndarray:
        self._kernel(*self._inputs, self._out)
        result: np.ndarray = self._out.numpy()
        return result

    def time(self, seconds: float) -> float:
        return fastest(lambda: self._kernel(*self._inputs, self._out), seconds)

    def sample(self) -> list[float]:
        return sampled(self.call())


class Onnxruntime:
    """The contrib operator MultiHeadAttention on one thread; hidden keys are told by 0 and 1."""

    def load(self, words: list[str]) -> None:
        from onnx import helper

        batch, q_len, kv_len, heads, _, size = map(int, words[:6])
        rows = {"q": q_len, "k": kv_len, "v": kv_len}
        self._feed = {name: array.reshape(batch, rows[name], heads * size)
                      for name, array in zip(rows, inputs(words), strict=False)}
        names = list(rows)
        if "mask" in words:
            names += ["", "keep"]
            self._feed["keep"] = (inputs(words)[3].reshape(batch, kv_len) == 0).astype("int32")
        node = helper.make_node(
            "MultiHeadAttention", names, ["out"], domain="com.microsoft", num_heads=heads,
            unidirectional=int("causal" in words))
        given = {name: (array.dtype.name, array.shape) for name, array in self._feed.items()}
        out = ("float32", (batch, q_len, heads * size))
        self._session = one_thread(around([node], given, {"out": out}, {}).SerializeToString())

    def time(self, seconds: float) -> float:
        return fastest(lambda: self._session.run(None, self._feed), seconds)

    def sample(self) -> list[float]:
        return sampled(self._session.run(None, self._feed)[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.1, help="of a turn (default: 0.1)")
    parser.add_argument("--target", default="host", help="whose code to run here (default: host)")
    parser.add_argument("--only", default="", metavar="WORDS", help="lines that begin so")
    wanted = parser.parse_args()
    lines = (SHAPES / "attention.txt").read_text().splitlines()
    cases = [line.split() for line in lines
             if line.strip() and not line.startswith("#") and line.startswith(wanted.only)]
    print(f"Least of {TURNS} turns, one thread, microseconds; in brackets for any size.\n\n"
          "| batch, queries, keys, heads, key heads, size | ours | onnxruntime | ratio |\n"
          "|---|---|---|---|")
    with Worker("bench.attention:Ours") as known, Worker("bench.attention:Ours") as symbolic, \
            Worker("bench.attention:Onnxruntime") as peer:
        for words in cases:
            known.ask("load", words=words, symbolic=False, target=wanted.target)
            symbolic.ask("load", words=words, symbolic=True, target=wanted.target)
            racers = [known, symbolic]
            if words[3] == words[4]:    # it has no operator for fewer key heads without a cache
                peer.ask("load", words=words)
                racers.append(peer)
            apart = next((APART[word] for word in words if word in APART), APART["float32"])
            print(row(words, *race(racers, wanted.seconds, apart)), flush=True)


def race(racers: list[Worker], seconds: float, apart: float) -> list[float]:
    """The microseconds of each one's fastest call.

    Raises ValueError where results differ by more than `apart`.
    """
    samples = [np.array(racer.ask("sample")["result"]) for racer in racers]
    for other in samples[1:]:
        if (error := float(np.abs(other - samples[0]).max())) > apart:
            raise ValueError(f"the results differ by {error:.1e}")
    turns = [[racer.ask("time", seconds=seconds)["result"] for racer in racers]
             for _ in range(TURNS)]
    return [min(times) * 1e6 for times in zip(*turns, strict=True)]


def row(words: list[str], known: float, symbolic: float, *peer: float) -> str:
    ours = f"{known:,.1f} ({symbolic:,.1f})"
    theirs = f"{peer[0]:,.1f} | {known / peer[0]:.2f} ({symbolic / peer[0]:.2f})" if peer else "| "
    return f"| {' '.join(words)} | {ours} | {theirs} |"


def inputs(words: list[str]) -> list[np.ndarray]:
    """Queries, keys, values, and the mask where there is one, which hides the last tenth."""
    shapes = attention(words)[2][:-1]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype("float32") for shape in shapes[:3]]
    for shape in shapes[3:]:
        hidden = np.arange(shape[-1]) >= shape[-1] - shape[-1] // 10
        arrays.append(np.broadcast_to(np.where(hidden, -1e30, 0.0), shape).astype("float32"))
    return arrays


def fastest(call: Callable[[], Any], seconds: float) -> float:
    """The seconds of the fastest of all calls within `seconds`, at least three."""
    best, calls = float("inf"), 0
    end = time.perf_counter() + seconds
    while calls < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def sampled(result: np.ndarray) -> list[float]:
    flat = result.reshape(-1)
    return [float(x) for x in flat[:: max(1, flat.size // SAMPLES)]]


if __name__ == "__main__":
    main()
