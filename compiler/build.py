"""compile(): Model + Target + Recipe -> Bundle."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.relax.utils import copy_with_new_vars

from pocketformer.compiler import frontends
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.dims import specialise
from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.explain import Explanation
from pocketformer.compiler.folding import fold_weights
from pocketformer.compiler.link import Linker
from pocketformer.compiler.manifest import Entry, Manifest
from pocketformer.compiler.model import Dim, Model
from pocketformer.compiler.pipeline import finish, pipeline, run
from pocketformer.compiler.pool import pool_objects
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.recipe import Float32, Recipe
from pocketformer.passes.graph import entry_functions
from pocketformer.targets import Target
from pocketformer.targets import load as load_target

# Each combination of buckets is code of its own; beyond this the library grows for little.
MAX_ENTRIES = 64



def compile(
    model: Any,
    target: str | Target = "host",
    *,
    example_inputs: Any = None,
    dims: Mapping[str, str | int | Dim] | None = None,
    component: str | None = None,
    recipe: Recipe | None = None,
    embed_weights: bool = False,
    progress: Progress | None = None,
    dump_ir: str | Path | None = None,
) -> Bundle:
    """Compile `model` for `target`.

    `model` is a Model, or anything that `load` takes. `dims` fixes, limits or buckets dimensions by
    axis name or `INPUT.AXIS`: `{"seq": 128}`, `{"seq": "1..512"}`, `{"seq": "16,32,64"}`.
    With `embed_weights` the library holds the weights. `progress` is told each step's name and the
    share of the work that is done. `dump_ir` is a folder that gets the module after every pass, as
    TVMScript.

    Raises a PocketformerError for a model, dimension, target or recipe that does not work.
    """
    tell = progress or silent
    chosen = target if isinstance(target, Target) else load_target(target)
    recipe = recipe or Float32()
    tell("load", 0.0)
    if isinstance(model, Model):
        model = model.with_dims(dims)
    else:
        model = frontends.load(
            model, example_inputs=example_inputs, dims=dims, component=component
        )
    return _build(model, chosen, recipe, embed_weights, tell, dump_ir)


def _build(
    model: Model,
    target: Target,
    recipe: Recipe,
    embed_weights: bool,
    tell: Progress,
    dump_ir: str | Path | None,
) -> Bundle:
    explanation = Explanation()
    before = list(pipeline(target, recipe))
    after = list(finish(target))
    # Generating code and linking take about as long as all the passes together.
    watch = _watcher(explanation, tell, 2 * (len(before) + len(after)), dump_ir)
    with explanation.listening():
        module, fixed = _entries(model)
        module = run(module, before, target, watch)
        module, weights = fold_weights(module, model.weights)
        entries = _describe(module, fixed, embed_weights)
        if embed_weights:
            module, weights = _embedded(module, weights), {}
        module = run(module, after, target, watch)
    tell("generate code", 0.5)
    executable = relax.build(module, target.tvm(), relax_pipeline=None)
    tell("link", 0.9)
    manifest = Manifest.describe(
        name=model.name,
        target=target,
        recipe=recipe.name,
        inputs=model.inputs,
        outputs=model.outputs,
        dims=model.dims,
        entries=entries,
        operators=tuple(explanation.records(model.operators)),
        kernels=tuple(explanation.calls.records(model.operators)),
    )
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        executable.export_library(str(library), fcompile=Linker(target, also=pool_objects(target)))
        return Bundle.create(library, weights, manifest)


def _watcher(
    explanation: Explanation, tell: Progress, total: int, dump_ir: str | Path | None
) -> Callable[[str, IRModule], None]:
    """What sees the module after every pass: the explanation, the progress, a folder of dumps."""
    numbers = itertools.count(1)

    def watch(step: str, mod: IRModule) -> None:
        number = next(numbers)
        explanation.watch(step, mod)
        tell(step, number / total)
        if dump_ir is not None:
            Path(dump_ir).mkdir(parents=True, exist_ok=True)
            (Path(dump_ir) / f"{number:02}_{step}.py").write_text(mod.script(show_meta=False))

    return watch


def _entries(model: Model) -> tuple[IRModule, dict[str, dict[str, int]]]:
    """The module with one more entry for every combination of buckets, and each entry's sizes."""
    bucketed = {name: dim.buckets for name, dim in model.dims.items() if dim.buckets}
    combinations = [
        dict(zip(bucketed, sizes, strict=True)) for sizes in itertools.product(*bucketed.values())
    ]
    if len(combinations) >= MAX_ENTRIES:
        raise BadDim(
            f"the buckets of {', '.join(bucketed)} give {len(combinations)} combinations, "
            f"at most {MAX_ENTRIES - 1} can be compiled"
        )
    functions = {}
    fixed: dict[str, dict[str, int]] = {}
    main = model.module["main"]
    bounds = {name: dim.high for name, dim in model.dims.items() if dim.high is not None}
    if bounds:
        main = main.with_attr("tir_var_upper_bound", bounds)
    functions["main"], fixed["main"] = main, {}
    for sizes in combinations if bucketed else []:
        name = "main_" + "_".join(f"{axis}_{size}" for axis, size in sizes.items())
        # FuseOps wants no variable in two functions, not even one that has none of these sizes.
        copy = copy_with_new_vars(specialise(model, sizes)["main"])
        functions[name] = copy.with_attr("global_symbol", name)
        fixed[name] = sizes
    return IRModule(functions), fixed


def _describe(
    mod: IRModule, fixed: Mapping[str, Mapping[str, int]], embedded: bool
) -> tuple[Entry, ...]:
    functions = {str(func.attrs["global_symbol"]): func for _, func in entry_functions(mod)}
    return tuple(
        Entry(
            function=name,
            dims=dict(sizes),
            weights=() if embedded else tuple(_weight_names(functions[name])),
        )
        for name, sizes in fixed.items()
    )


def _weight_names(func: relax.Function) -> list[str]:
    return [str(param.name) for param in func.params[int(func.attrs["num_input"]) :]]


def _embedded(mod: IRModule, weights: Mapping[str, np.ndarray]) -> IRModule:
    """`mod` with the weights as constants of its code."""
    for gvar, func in entry_functions(mod):
        bound = {name: tvm.runtime.tensor(weights[name]) for name in _weight_names(func)}
        mod = relax.transform.BindParams(gvar.name_hint, bound)(mod)
    return mod
