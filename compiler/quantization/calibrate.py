"""Calibration: what the tensors hold that a model's layers read, on real inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketformer.compiler.model import Model
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.statistics import Statistics
from pocketformer.compiler.recipe import Recipe

if TYPE_CHECKING:
    from tvm.ir import IRModule


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A model's layers, and what they read; no statistics where the recipe has no data."""

    layers: tuple[Layer, ...]
    statistics: Statistics


def calibrate(module: IRModule, model: Model, recipe: Recipe, tell: Progress) -> Calibrated:
    """Runs the float32 model on the recipe's `calibration` batches, on this machine.

    `module` is what `pipeline.graph` makes of `model`. Memory does not depend on the number of
    batches. Raises BadInput for data that does not fit the model, BadRecipe for no data.
    """
    raise NotImplementedError
