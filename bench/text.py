"""Real sentences with a label, and batches of them for a model that reads text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.models import BenchModel
from pocketformer.compiler.arrays import Arrays

FILE = Path(__file__).parent / "data" / "sentiment" / "movie_reviews.tsv"
PARTS = {"calibration": slice(0, 256), "training": slice(256, 1256), "held out": slice(1256, None)}
LONGEST = 128    # tokens


@dataclass(frozen=True)
class Sentences:
    """Texts, and whether each was rated as positive."""

    texts: tuple[str, ...]
    positive: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> Sentences:
        return Sentences(self.texts[:count], self.positive[:count])


def sentences(part: str) -> Sentences:
    """One of `PARTS`, which have no sentence in common."""
    lines = FILE.read_text(encoding="utf-8").splitlines()[PARTS[part]]
    ratings, texts = zip(*(line.split("\t", 1) for line in lines), strict=True)
    return Sentences(tuple(texts), np.array([float(rating) > 0 for rating in ratings]))


def batches(model: BenchModel, texts: Sequence[str], length: int | None = None) -> Iterator[Arrays]:
    """Each text as the inputs of `model`, batch 1: of its own length, or padded to `length`."""
    tokenizer = tokenizer_of(model)
    if length is not None:
        tokenizer.enable_padding(length=length)
    for text in texts:
        found = tokenizer.encode(text)
        known = {"input_ids": found.ids, "attention_mask": found.attention_mask,
                 "token_type_ids": found.type_ids}
        yield {name: np.array([known[name]], np.int64) for name in model.inputs}


def tokenizer_of(model: BenchModel) -> Any:
    """The tokenizer of the model's folder, which cuts texts at `LONGEST` tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model.source() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def embedding(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean of the tokens' vectors, of length one: what all-MiniLM-L6-v2 was trained for.

    `hidden` is [batch, length, size], `mask` [batch, length]; returns [batch, size].
    """
    weights = mask[..., None].astype(np.float32)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    found: np.ndarray = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return found
