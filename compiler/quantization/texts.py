"""Texts -> batches, by the tokenizer in the model's folder."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.errors import BadInput, MissingPackage
from pocketformer.compiler.model import Axis, Model, TensorSpec

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

LOG = logging.getLogger("pocketformer.calibration")
FILE = "tokenizer.json"
# What tokenizers give, by the names of inputs that take it.
FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Texts:
    """Tokenizes texts for `model`.

    Where its sizes are open, a text keeps its length, so that no padding is computed. Raises
    BadInput where the model has no tokenizer, or inputs that do not come from text.
    """

    def __init__(self, model: Model) -> None:
        for spec in model.inputs:
            if spec.name not in FIELDS or len(spec.shape) != 2:
                raise BadInput(
                    f"texts give {', '.join(FIELDS)}, not the model's input {spec}; "
                    "give batches of arrays"
                )
        self._model = model
        self._tokenizer = _tokenizer(model)
        batch, length = model.inputs[0].shape
        self._rows, self._least, _ = self._limits(batch)
        _, self._shortest, longest = self._limits(length)
        self._pad = _padding(self._tokenizer)
        self._tokenizer.no_padding()
        if longest is not None:
            self._tokenizer.enable_truncation(longest)

    def batches(self, texts: Iterable[object]) -> Iterator[Arrays]:
        """As many texts as a batch must have, at the length of the longest of them.

        What does not fill a batch is left out, and told. Raises BadInput where that is all.
        """
        remaining, full = iter(texts), 0
        while taken := list(itertools.islice(remaining, self._rows)):
            for text in taken:
                if not isinstance(text, str):
                    kind = type(text).__name__
                    raise BadInput(f"the data has texts and also something of type {kind}")
            if len(taken) == self._rows:
                full += 1
                yield self._batch(self._tokenizer.encode_batch(taken))
            elif not full:
                raise BadInput(f"{len(taken)} texts are fewer than the {self._rows} of a batch")
            else:
                LOG.warning(
                    "the last %d of %d texts are left out: a batch has %d",
                    len(taken), full * self._rows + len(taken), self._rows,
                )

    def _limits(self, axis: Axis) -> tuple[int, int, int | None]:
        """The usual, least and largest size of an axis."""
        if isinstance(axis, int):
            return axis, axis, axis
        dim = self._model.dims[axis]
        return dim.low, dim.low, dim.high

    def _batch(self, encoded: list[Encoding]) -> Arrays:
        length = max(self._shortest, *(len(each.ids) for each in encoded))
        return {spec.name: self._array(spec, encoded, length) for spec in self._model.inputs}

    def _array(self, spec: TensorSpec, encoded: list[Encoding], length: int) -> np.ndarray:
        filled = self._pad if spec.name == "input_ids" else 0
        array = np.full((len(encoded), length), filled, spec.dtype)
        for row, each in zip(array, encoded, strict=True):
            numbers = getattr(each, FIELDS[spec.name])
            row[: len(numbers)] = numbers
        return array


def _padding(tokenizer: Tokenizer) -> int:
    return int(tokenizer.padding["pad_id"]) if tokenizer.padding else 0


def _tokenizer(model: Model) -> Tokenizer:
    """That of the model's folder, or of the one above, where ONNX files lie in one of their own."""
    if model.folder is None:
        raise BadInput(
            "texts need the tokenizer of a model's folder, and this model comes from none; "
            "give batches of arrays"
        )
    try:
        import tokenizers
    except ImportError:
        raise MissingPackage(
            'texts need tokenizers; run: pip install "pocketformer[huggingface]"'
        ) from None
    folder = Path(model.folder).resolve()
    for place in (folder, folder.parent):
        if (place / FILE).is_file():
            try:
                return tokenizers.Tokenizer.from_file(str(place / FILE))
            except Exception as error:    # tokenizers raises nothing more special
                raise BadInput(f"{place / FILE} is no tokenizer: {error}") from None
    raise BadInput(f"the folder {folder} holds no {FILE} for texts; give batches of arrays")
