"""Which tokens of a batch are padding."""

from __future__ import annotations

import numpy as np

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.errors import PocketformerError

# Names of inputs that are 0 for padding. One that is just named "mask" may as well be 1 there.
MASKS = ("attention_mask", "input_mask")


def mask_of(batch: Arrays, name: str | None = None) -> np.ndarray | None:
    """Where the tokens of `batch` count, bool [items, tokens]: where its input `name` is not 0, or
    without a name the first of MASKS. None where it has no such input of rank 2."""
    found = _name_of(batch, name)
    if found is None:
        return None
    counts: np.ndarray = batch[found] != 0
    return counts


def check_mask(
    batch: Arrays, number: int, error: type[PocketformerError], name: str | None = None
) -> None:
    """Raises `error` where no token of `batch`, the one with this number, counts."""
    mask = mask_of(batch, name)
    if mask is not None and not mask.any():
        raise error(
            f"the input {_name_of(batch, name)} is 0 throughout batch {number} of the data, which "
            "makes all of it padding"
        )


def _name_of(batch: Arrays, name: str | None) -> str | None:
    names = MASKS if name is None else (name,)
    return next((each for each in names if each in batch and batch[each].ndim == 2), None)
