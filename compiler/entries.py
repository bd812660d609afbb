"""The entry functions of a bundle: one for all sizes, one for every combination of buckets."""

from __future__ import annotations

import itertools

from tvm.ir import IRModule
from tvm.relax.utils import copy_with_new_vars

from pocketformer.compiler.dims import specialise
from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.model import Model

# Each combination of buckets is code of its own; beyond this the library grows for little.
MAX_ENTRIES = 64


def entries_of(model: Model) -> tuple[IRModule, dict[str, dict[str, int]]]:
    """The module with one more entry for every combination of buckets, and each entry's sizes.

    Raises BadDim where there are too many combinations.
    """
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
