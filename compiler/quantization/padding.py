"""Which tokens of a batch are padding."""

from __future__ import annotations

import numpy as np

from pocketformer.compiler.arrays import Arrays

MASKS = ("attention_mask", "input_mask", "mask")    # names of inputs that are 0 for padding


def mask_of(batch: Arrays, name: str | None = None) -> np.ndarray | None:
    """Where the tokens of `batch` count, bool [items, tokens]: where its input `name` is not 0, or
    without a name the first of MASKS. None where it has no such input of rank 2."""
    names = MASKS if name is None else (name,)
    for each in names:
        if each in batch and batch[each].ndim == 2:
            counts: np.ndarray = batch[each] != 0
            return counts
    return None
