"""What a layer computes with that stays in higher precision for the answers' sake."""

from __future__ import annotations

from pocketformer.compiler.quantization.layers import LOOKUP, Layer
from pocketformer.compiler.quantization.numbers import CastLayer, Numbers, Table
from pocketformer.compiler.quantization.weights import table_of

FLOAT, SHORT = "float32", "bfloat16"


def kept_numbers(layer: Layer, numbers: Numbers | None, precision: str) -> Numbers | None:
    """What a layer that is kept computes with: lookup tables of 4 bits have 8, others none less.

    A table multiplies nothing: in 8 bits its rows are far better than what is made of them.
    """
    if layer.kind == LOOKUP:
        assert layer.weight is not None
        of_four = isinstance(numbers, Table) and numbers.bits < 8
        return table_of(layer.weight, 8, 0) if of_four else None
    return None if precision == FLOAT else CastLayer(precision)
