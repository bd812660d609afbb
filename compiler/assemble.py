"""From a Model to fused operators, and from these to a Bundle: what compile() does before and after
it decides in how many bits they compute."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tvm.ir import IRModule

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.entries import entries_of
from pocketformer.compiler.explain import Explanation
from pocketformer.compiler.folding import Folding
from pocketformer.compiler.levels import LevelCode, LevelPasses, Watch
from pocketformer.compiler.link import Linker
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.merge_levels import LevelLinker, merge
from pocketformer.compiler.model import Model
from pocketformer.compiler.pipeline import finish, graph, kernels, precision, run
from pocketformer.compiler.pool import pool_objects
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.quantization.result import AccuracyReport
from pocketformer.compiler.recipe import Recipe
from pocketformer.compiler.tuning.choices import choose
from pocketformer.compiler.tuning.given import unused
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.survey import survey
from pocketformer.targets import Target

LOG = logging.getLogger("pocketformer.records")     # which records do not fit


@dataclass(frozen=True)
class Fused:
    """A model whose operators are fused, before anything says in how many bits they compute.

    `fixed` are the sizes that each entry function of `module` is made for.
    """

    model: Model
    module: IRModule
    fixed: Mapping[str, Mapping[str, int]]
    explanation: Explanation


@dataclass(frozen=True)
class Wishes:
    """How to assemble a bundle: see `compile`. `remark` logs which records do not fit.

    `accuracy` is what was measured of it, for its manifest.
    """

    records: Records
    remark: bool = False
    embed_weights: bool = False
    tell: Progress = silent
    dump_ir: str | Path | None = None
    accuracy: AccuracyReport | None = None


def fuse(
    model: Model, target: Target, tell: Progress = silent, dump_ir: str | Path | None = None
) -> Fused:
    """`model` after the passes of `graph`, which do the same for every target."""
    explanation = Explanation()
    steps = [*graph(Folding(model.weights).evaluate)]
    watch = Watch(tell, len(steps), dump_ir)
    with explanation.listening():
        module, fixed = entries_of(model)
        module = run(module, steps, target, watch.of(explanation))
    return Fused(model, module, fixed, explanation)


def assemble(
    fused: Fused, target: Target, recipe: Recipe, quantization: Quantization, wishes: Wishes
) -> Bundle:
    """The bundle of `fused`, whose layers compute with what `quantization` says."""
    model, variants = fused.model, target.variants
    first = [*precision(recipe, quantization)]
    steps = len(first) + sum(len([*kernels(each), *finish(each)]) for each in variants)
    # Generating code and linking take about as long as all the passes together.
    watch = Watch(wishes.tell, 2 * steps, wishes.dump_ir, before=len([*graph()]))
    explanation = fused.explanation.fork()
    with explanation.listening():
        module = run(fused.module, first, target, watch.of(explanation))
    uses = survey(module)
    if wishes.remark:
        for sentence in unused(wishes.records, {use.workload for use in uses}, variants):
            LOG.warning(sentence)
    choices = choose(uses, variants, wishes.records)
    folding = Folding(model.weights)
    several = len(variants) > 1
    passing = [
        LevelPasses(each, module, explanation.fork(), watch, several, choices) for each in variants
    ]
    for level in passing:
        level.pick(folding)     # of all levels first: what they share is there once
    embed = wishes.embed_weights
    levels = [level.lower(model, fused.fixed, folding.kept, embed) for level in passing]
    weights = {} if embed else folding.kept
    return _bundle(model, target, recipe, levels, folding.kept, weights, wishes)


def _bundle(
    model: Model,
    target: Target,
    recipe: Recipe,
    levels: Sequence[LevelCode],
    weights: Mapping[str, np.ndarray],
    beside: Mapping[str, np.ndarray],
    wishes: Wishes,
) -> Bundle:
    """Machine code of all levels, linked to one library; the weights `beside` it."""
    library = merge(levels)
    wishes.tell("generate code", 0.5)
    executable = library.build()
    wishes.tell("link", 0.9)
    linker = LevelLinker(Linker(target, also=pool_objects(target)), library)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.so"
        executable.export_library(str(file), fcompile=linker)
        sizes = {name: array.nbytes for name, array in weights.items()}
        manifest = Manifest.describe(
            name=model.name,
            target=target,
            recipe=recipe.name,
            inputs=model.inputs,
            outputs=model.outputs,
            dims=model.dims,
            entries=tuple(entry for level in library.levels for entry in level.entries),
            # The last level's kernels stand for the others'.
            operators=library.levels[-1].operators,
            kernels=tuple(record for level in library.levels for record in level.kernels),
            memory=tuple(record for level in library.levels for record in level.memory),
            levels=library.records(linker.code, sizes),
            accuracy=wishes.accuracy,
        )
        return Bundle.create(file, beside, manifest)
