"""The numbers that each layer computes with, from its weights and the calibration's statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pocketformer.compiler.errors import BadCalibration
from pocketformer.compiler.quantization.int4_layers import int4_layer
from pocketformer.compiler.quantization.int8_layers import int8_layers
from pocketformer.compiler.quantization.layers import ATTENTION, LINEAR, LOOKUP, Layer
from pocketformer.compiler.quantization.numbers import (
    CastLayer,
    DynamicAttention,
    Int8Attention,
    Numbers,
    Quantization,
)
from pocketformer.compiler.quantization.observers import range_of
from pocketformer.compiler.quantization.statistics import Statistics, TensorStatistics
from pocketformer.compiler.quantization.weights import power_of_two, table_of
from pocketformer.compiler.recipe import BFloat16, Float16, Int4Weights, Int8, Recipe, is_quantized


def needs_second(layer: Layer, recipe: Recipe) -> bool:
    """Whether `recipe` of `layer` wants second moments of the tensor that it reads, for GPTQ."""
    return is_quantized(recipe) and layer.kind == LINEAR


def decide(
    layers: Sequence[Layer], statistics: Statistics, recipe_of: Callable[[Layer], Recipe]
) -> Quantization:
    """What each layer computes with; those that stay in float32 are left out.

    `statistics` holds the tensors that the layers read; it may lack them where no layer needs them.
    Layers of the same recipe that read the same tensor share its factor and zero. Raises
    BadCalibration for activations that were never seen, are not finite, or constant, and for
    weights that are not finite.
    """
    found: dict[str, Numbers] = {}
    together: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        recipe = recipe_of(layer)
        if is_quantized(recipe):
            _check_finite(layer)
        if layer.kind == LINEAR and isinstance(recipe, Int8):
            same = replace(
                recipe, dynamic=recipe.by_token, activations="tensor",
                attention="int8", embeddings="int8", overrides={})    # all that says nothing here
            together.setdefault((layer.x, repr(same)), []).append(layer)
        elif (numbers := _alone(layer, recipe, statistics)) is not None:
            found[layer.key] = numbers
    by_key = {layer.key: layer for layer in layers if layer.kind == LINEAR}
    for (x, _), readers in together.items():
        recipe = recipe_of(readers[0])
        assert isinstance(recipe, Int8)
        tensor = _tensor(statistics, x, readers[0], needed=not recipe.by_token)
        found.update(int8_layers(readers, tensor, recipe, by_key.get(readers[0].before)))
    return Quantization({layer.key: found[layer.key] for layer in layers if layer.key in found})


def _check_finite(layer: Layer) -> None:
    if layer.weight is not None and not np.isfinite(layer.weight).all():
        raise BadCalibration(
            f"the weight of {layer.name} has NaN or infinity; an override can keep it in float32")


def _alone(layer: Layer, recipe: Recipe, statistics: Statistics) -> Numbers | None:
    """The numbers of a layer that shares none with others."""
    if layer.kind == ATTENTION:
        return _attention(layer, recipe, statistics)
    if layer.kind == LOOKUP:
        return _lookup(layer, recipe)
    if isinstance(recipe, Int4Weights):
        tensor = _tensor(statistics, layer.x, layer, needed=False)
        return int4_layer(layer, tensor, recipe.group)
    return CastLayer(recipe.name) if isinstance(recipe, BFloat16 | Float16) else None


def _attention(layer: Layer, recipe: Recipe, statistics: Statistics) -> Numbers | None:
    """In int8 by ranges of calibration; where there was none, by those that the kernel finds."""
    if isinstance(recipe, BFloat16):
        return CastLayer("bfloat16")
    if not isinstance(recipe, Int8) or recipe.attention == "float32":
        return None
    if recipe.attention == "bfloat16":
        return CastLayer("bfloat16")
    if recipe.by_token and not statistics:
        return DynamicAttention()
    scales = []
    for read in layer.reads:
        tensor = _tensor(statistics, read, layer, needed=True)
        assert tensor is not None
        low, high = range_of(tensor, recipe.observer)
        scales.append(np.float32(max(-low, high) / 127))
    if recipe.scales == "power_of_two":
        scales = list(power_of_two(np.array(scales)))
    return Int8Attention(*map(float, scales))


def _lookup(layer: Layer, recipe: Recipe) -> Numbers | None:
    if not isinstance(recipe, Int8 | Int4Weights) or recipe.embeddings == "float32":
        return None
    assert layer.weight is not None
    if isinstance(recipe, Int8):
        return table_of(layer.weight, 8, 0, recipe.scales)
    return table_of(layer.weight, 4 if recipe.embeddings == "int4" else 8, recipe.group)


def _tensor(
    statistics: Statistics, key: str, layer: Layer, needed: bool
) -> TensorStatistics | None:
    """The statistics of a tensor that `layer` reads, None where there are none, nor `needed`."""
    tensor = statistics.get(key)
    if tensor is None and not needed:
        return None
    if tensor is not None and not tensor.finite:
        raise BadCalibration(f"calibration gives NaN or infinity as the input of {layer.name}")
    if tensor is None or not tensor.count:
        raise BadCalibration(f"calibration has not reached the input of {layer.name}")
    if (only := tensor.low.min()) == tensor.high.max():
        raise BadCalibration(
            f"calibration gives nothing but {only:g} as the input of {layer.name}; are the data "
            f"real inputs? An override can keep the layer in float32"
        )
    return tensor
