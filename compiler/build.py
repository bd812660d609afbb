"""compile(): Model + Target + Recipe -> Bundle."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketformer.compiler import frontends
from pocketformer.compiler.assemble import Fused, Wishes, assemble, fuse
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.model import Dim, Model
from pocketformer.compiler.progress import Progress, part_of, silent
from pocketformer.compiler.quantization.accuracy import Accuracy
from pocketformer.compiler.quantization.calibrate import Calibrated, calibrate
from pocketformer.compiler.quantization.control import check_measurable, controlled
from pocketformer.compiler.quantization.decide import decide
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.keep_layers import Controlled
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.quantization.overrides import recipes_of
from pocketformer.compiler.recipe import (
    Float32,
    Recipe,
    check_recipe,
    chosen_recipe,
    is_quantized,
)
from pocketformer.compiler.tuning.given import Given, records_of
from pocketformer.targets import HOST, Target
from pocketformer.targets import load as load_target

LOG = logging.getLogger("pocketformer.calibration")
# Shares of the time of a compilation: all but the last for recipes that decide layer by layer.
READ, CALIBRATED, DECIDED = 0.1, 0.5, 0.7
MEASURED = 0.2      # of the time of an accuracy check goes by before it measures


def compile(
    model: Any,
    target: str | Target = "host",
    *,
    example_inputs: Any = None,
    dims: Mapping[str, str | int | Dim] | None = None,
    component: str | None = None,
    recipe: Recipe | str | None = None,
    records: Given | None = None,
    embed_weights: bool = False,
    progress: Progress | None = None,
    dump_ir: str | Path | None = None,
    accept: Accuracy | None = None,
) -> Bundle:
    """Compile `model` for `target`.

    `model` is a Model, or anything that `load` takes. `dims` fixes, limits or buckets dimensions by
    axis name or `INPUT.AXIS`: `{"seq": 128}`, `{"seq": "1..512"}`, `{"seq": "16,32,64"}`.
    `recipe` is one such as BFloat16() or its name, "bfloat16"; without it everything stays float32.
    `records` tell which kernels are fast on the target's processor, never what is computed: what
    `tune` found, Records, or files of them. Without it those that come with pocketformer are used;
    () stands for none. What does not fit is left out, and logged as a warning.
    With `embed_weights` the library holds the weights. `progress` is told each step's name and the
    share of the work that is done. `dump_ir` is a folder that gets the module after every pass, as
    TVMScript. `accept` says how far the answers may be from float32's: as few layers as possible
    are kept in higher precision so that they are not further, and the bundle's manifest tells as
    its `accuracy` what was measured on this machine.

    Raises a PocketformerError for a model, dimension, target, recipe, calibration data or file of
    records that does not work, and AccuracyLost where the answers cannot be held.
    """
    tell = progress or silent
    chosen = target if isinstance(target, Target) else load_target(target)
    recipe = chosen_recipe(recipe)
    check_recipe(recipe, chosen)
    known = records_of(records, chosen.variants)
    tell("load", 0.0)
    how = {"example_inputs": example_inputs, "component": component}
    read = read_model(model, recipe, dims, keep=accept is not None, **how)
    fused = fuse(read, chosen, part_of(tell, 0.0, READ), dump_ir)
    decided = READ if accept is None and not is_quantized(recipe) else DECIDED
    progressing = part_of(tell, READ, decided)
    if accept is None:
        quantization, report = quantize(fused, recipe, progressing), None
    else:
        found = accepted(fused, recipe, accept, chosen, progressing)
        quantization, report = found.quantization, found.report
        as_measured = read.unfixed is None and chosen == load_target(HOST)
        if as_measured and records is None and not embed_weights and dump_ir is None:
            manifest = replace(found.bundle.manifest, recipe=recipe.name, accuracy=report)
            return Bundle.create(found.bundle.library, found.bundle.weights, manifest)
    rest = part_of(tell, decided, 1.0)
    wishes = Wishes(known, records is not None, embed_weights, rest, dump_ir, report)
    return assemble(fused, chosen, recipe, quantization, wishes)


def read_model(
    model: Any,
    recipe: Recipe,
    dims: Mapping[str, str | int | Dim] | None = None,
    *,
    keep: bool = False,
    **how: Any,
) -> Model:
    """The Model to compile by `recipe`; `how` is what `load` takes as well.

    One that is calibrated, or with `keep`, still knows how it was before dimensions were fixed.
    """
    if isinstance(model, Model):
        return model.with_dims(dims)
    if keep or is_quantized(recipe):
        return frontends.load_then_fix(model, dims, **how)
    return frontends.load(model, dims=dims, **how)


def quantize(fused: Fused, recipe: Recipe, tell: Progress = silent) -> Quantization:
    """What the layers of `fused` compute with; nothing for recipes that say the same of all.

    Raises BadRecipe, BadInput and BadCalibration.
    """
    return decide_layers(calibrated_layers(fused, recipe, tell), recipe)


def calibrated_layers(fused: Fused, recipe: Recipe, tell: Progress = silent) -> Calibrated:
    """The layers of `fused`, and what they read; none for recipes that say the same of all."""
    if not is_quantized(recipe):
        return Calibrated((), {})
    share = (CALIBRATED - READ) / (DECIDED - READ)    # of what is told here
    calibrated = calibrate(fused.module, fused.model, recipe, part_of(tell, 0.0, share))
    tell("quantize", share)
    return calibrated


def accepted(
    fused: Fused, recipe: Recipe, accept: Accuracy, target: Target, tell: Progress = silent
) -> Controlled:
    """What the layers of `fused` compute with so that `accept` holds, and what was measured.

    Raises as `quantize` and `controlled` do.
    """
    # What is wrong with recipe or data is told before the work of calibration.
    check_measurable(recipe)
    with Evaluation(accept, fused.model.unfixed or fused.model) as evaluation:
        calibrated = Calibrated((), {})
        if not isinstance(recipe, Float32):
            calibrated = calibrate(fused.module, fused.model, recipe, part_of(tell, 0.0, MEASURED))
        quantization = decide_layers(calibrated, recipe)
        rest = part_of(tell, MEASURED, 1.0)
        return controlled(fused, recipe, calibrated, quantization, evaluation, target, rest)


def decide_layers(calibrated: Calibrated, recipe: Recipe) -> Quantization:
    """What `recipe` with its overrides makes of layers that were calibrated; a warning tells where
    it leaves all of them in float32."""
    layers = calibrated.layers
    found = decide(layers, calibrated.statistics, recipes_of(layers, recipe))
    if layers and not found.layers and is_quantized(recipe):
        LOG.warning(
            f"the recipe {recipe.name} leaves all layers in float32: its settings keep them so, or "
            "they read no multiple of 8 channels, as int4 weights do"
        )
    return found
