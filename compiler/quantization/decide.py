"""The numbers that each layer computes with, from its weights and the calibration's statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.quantization.statistics import Statistics
from pocketformer.compiler.recipe import Recipe


def needs_second(layer: Layer, recipe: Recipe) -> bool:
    """Whether `recipe` of `layer` wants the sum of x^T x of the tensor that it reads."""
    return False


def decide(
    layers: Sequence[Layer], statistics: Statistics, recipe_of: Callable[[Layer], Recipe]
) -> Quantization:
    """What each layer computes with; those of Float32 are left out.

    `statistics` holds the tensors that the layers read (none for recipes without calibration).
    Raises BadCalibration for NaN, infinite or constant-zero activations.
    """
    return Quantization({})
