"""What int8 is calibrated on: real sentences where a model has a tokenizer, else random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.models import BenchModel
from bench.text import batches, sentences
from pocketformer.compiler.arrays import Arrays

COUNT = 128      # batches of one
SEED = 100       # of the first; that of the inputs which are timed is another


def calibration(model: BenchModel, sizes: Mapping[str, int]) -> Iterator[Arrays]:
    """`COUNT` batches of one: sentences of their own lengths, random inputs of those of `sizes`."""
    if (model.source() / "tokenizer.json").exists():
        yield from batches(model, sentences("calibration").first(COUNT).texts)
        return
    for seed in range(SEED, SEED + COUNT):
        yield model.arrays({**sizes, "batch": 1}, seed)
