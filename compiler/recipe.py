"""How a model's numbers are stored and computed: a recipe is a frozen dataclass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Float32:
    """Weights and arithmetic in float32, as in the source."""

    name = "float32"


Recipe = Float32
