"""Accuracy control: what layers compute with so that the answers hold, measured on this machine."""

from __future__ import annotations

from itertools import cycle, islice

from pocketformer.compiler.assemble import Fused, fuse
from pocketformer.compiler.errors import BadMetric, BadRecipe
from pocketformer.compiler.model import Model
from pocketformer.compiler.progress import Progress, part_of, silent
from pocketformer.compiler.quantization.calibrate import Calibrated, calibrate
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.higher import FLOAT, SHORT
from pocketformer.compiler.quantization.judge import Judge
from pocketformer.compiler.quantization.keep_layers import Controlled, KeepLayers
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.quantization.taps import find_layers
from pocketformer.compiler.recipe import Int8, Recipe, check_recipe, is_quantized
from pocketformer.schedules.cpu.dot import BFloat16Dot
from pocketformer.schedules.cpu.dot_table import dots_of
from pocketformer.targets import HOST, Target
from pocketformer.targets import load as load_target

ANSWERED, SEEN = 0.1, 0.2    # of the time, after what float32 answers and what its layers read
FEW = 8                      # batches tell well enough how much a layer suffers


def check_measurable(recipe: Recipe) -> None:
    """Raises BadMetric where this machine cannot compute as `recipe` says."""
    try:
        check_recipe(recipe, load_target(HOST))
    except BadRecipe as error:
        raise BadMetric(f"answers are measured on this machine, but {error}") from None


def controlled(
    fused: Fused,
    recipe: Recipe,
    calibrated: Calibrated,
    quantization: Quantization,
    evaluation: Evaluation,
    target: Target,
    tell: Progress = silent,
) -> Controlled:
    """`quantization` of `fused` with the fewest layers in higher precision that hold the check of
    `evaluation`.

    What is measured is compiled for this machine, whose integers are those of `target`, from the
    model before its sizes were fixed. Layers are looked for in the order of what each takes from
    the answers when it alone is quantised (Judge.effects). They are kept in bfloat16 first where
    `target` is fast with it, else in float32, as are those that the recipe itself casts. Raises
    AccuracyLost, with what was measured, where the answers do not hold; BadMetric and BadInput.
    """
    host = load_target(HOST)
    measured = _measured(fused.model, calibrated, host)
    judge = Judge(measured, recipe, evaluation, host)
    judge.answer(part_of(tell, 0.0, ANSWERED))
    if is_quantized(recipe):
        calibrated = _with_rows(calibrated, measured, evaluation, part_of(tell, ANSWERED, SEEN))
    keep = KeepLayers(recipe, calibrated, quantization, judge, part_of(tell, SEEN, 1.0))
    return keep.decided(_higher(target))


def _measured(model: Model, calibrated: Calibrated, host: Target) -> Fused:
    """The model before its sizes were fixed, if it has the layers that are there after.

    It may have more of them: a lookup of places is settled once the size is known.
    """
    if model.unfixed is not None:
        fused = fuse(model.unfixed, host)
        found = find_layers(fused.module, model.weights).layers if calibrated.layers else ()
        if {layer.key for layer in calibrated.layers} <= {layer.key for layer in found}:
            return fused
    return fuse(model, host)


def _with_rows(
    calibrated: Calibrated, fused: Fused, evaluation: Evaluation, tell: Progress
) -> Calibrated:
    """`calibrated` with what layers read of the check's own data, where there was no other."""
    if calibrated.statistics or not calibrated.layers:
        return calibrated
    batches = islice(cycle(evaluation.batches), FEW)
    seen = calibrate(
        fused.module, fused.model, Int8(dynamic=True, calibration=batches), tell
    )
    return Calibrated(calibrated.layers, seen.statistics)


def _higher(target: Target) -> tuple[str, ...]:
    """What layers are kept in, the fastest first."""
    fast = all(
        any(isinstance(dot, BFloat16Dot) for dot in dots_of(variant, SHORT))
        for variant in target.variants
    )
    return (SHORT, FLOAT) if fast else (FLOAT,)
