"""compile(): Model + Target + Recipe -> Bundle."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pocketformer.compiler import frontends
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.entries import entries_of
from pocketformer.compiler.explain import Explanation
from pocketformer.compiler.folding import Folding
from pocketformer.compiler.levels import LevelCode, LevelPasses, Watch
from pocketformer.compiler.link import Linker
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.merge_levels import LevelLinker, merge
from pocketformer.compiler.model import Dim, Model
from pocketformer.compiler.pipeline import finish, kernels, run, shared
from pocketformer.compiler.pool import pool_objects
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.recipe import Recipe, check_recipe, chosen_recipe
from pocketformer.compiler.tuning.choices import choose
from pocketformer.compiler.tuning.given import Given, records_of, unused
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.survey import survey
from pocketformer.targets import Target
from pocketformer.targets import load as load_target

LOG = logging.getLogger("pocketformer.records")     # which records do not fit


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
    TVMScript.

    Raises a PocketformerError for a model, dimension, target, recipe or file of records that does
    not work.
    """
    tell = progress or silent
    chosen = target if isinstance(target, Target) else load_target(target)
    recipe = chosen_recipe(recipe)
    check_recipe(recipe, chosen)
    known = records_of(records, chosen.variants)
    tell("load", 0.0)
    if isinstance(model, Model):
        model = model.with_dims(dims)
    else:
        model = frontends.load(
            model, example_inputs=example_inputs, dims=dims, component=component
        )
    return _build(model, chosen, recipe, known, records is not None, embed_weights, tell, dump_ir)


def _build(
    model: Model,
    target: Target,
    recipe: Recipe,
    records: Records,
    remark: bool,
    embed_weights: bool,
    tell: Progress,
    dump_ir: str | Path | None,
) -> Bundle:
    first = [*shared(recipe)]
    variants = target.variants
    steps = len(first) + sum(len([*kernels(each), *finish(each)]) for each in variants)
    # Generating code and linking take about as long as all the passes together.
    watch = Watch(tell, 2 * steps, dump_ir)
    explanation = Explanation()
    with explanation.listening():
        module, fixed = entries_of(model)
        module = run(module, first, target, watch.of(explanation))
    uses = survey(module)
    for sentence in unused(records, {use.workload for use in uses}, variants) if remark else ():
        LOG.warning(sentence)
    choices = choose(uses, variants, records)
    folding = Folding(model.weights)
    several = len(variants) > 1
    passing = [
        LevelPasses(each, module, explanation.fork(), watch, several, choices) for each in variants
    ]
    for level in passing:
        level.pick(folding)     # of all levels first: what they share is there once
    levels = [level.lower(model, fixed, folding.kept, embed_weights) for level in passing]
    return _bundle(model, target, recipe, levels, folding.kept, embed_weights, tell)


def _bundle(
    model: Model,
    target: Target,
    recipe: Recipe,
    levels: Sequence[LevelCode],
    weights: Mapping[str, np.ndarray],
    embed_weights: bool,
    tell: Progress,
) -> Bundle:
    """Machine code of all levels, linked to one library."""
    library = merge(levels)
    tell("generate code", 0.5)
    executable = library.build()
    tell("link", 0.9)
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
        )
        return Bundle.create(file, {} if embed_weights else weights, manifest)
