"""Batches of a model's inputs: from memory, files, or texts through the model's tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.model import Model


def batches_of(data: Any, model: Model) -> Iterator[Arrays]:
    """The batches that `data` holds, each checked against the model's inputs, one at a time.

    `data` is an iterable of dicts of arrays by input name, the path of an .npz file or of a folder
    of them, or texts (a list, or the path of a .txt file with one a line) for a model from a folder
    with a tokenizer. Raises BadInput that says what does not fit.
    """
    raise NotImplementedError
