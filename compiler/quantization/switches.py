"""layer(x)  ->  where(kept, layer__kept(x), layer__few(x)): what counts is chosen at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tvm import relax
from tvm.ir import IRModule

from pocketformer.compiler.assemble import Fused
from pocketformer.compiler.explain import Explanation
from pocketformer.compiler.model import TensorSpec
from pocketformer.compiler.quantization.numbers import Numbers, Quantization
from pocketformer.passes.graph import Graph, Replacement, emit, rebuild

FEW, KEPT = "__few", "__kept"    # what the keys of a layer's two forms end in


def both(
    few: Mapping[str, Numbers], kept: Mapping[str, Numbers], keys: Sequence[str]
) -> Quantization:
    """What the layers of a module compute with where those of `keys` are `switched`.

    Layers have `few`, and those of `keys` have `kept` in their other form.
    """
    return Quantization(
        {f"{key}{FEW}" if key in keys else key: numbers for key, numbers in few.items()}
        | {f"{key}{KEPT}": kept[key] for key in keys if key in kept}
    )


def switched(fused: Fused, keys: Sequence[str]) -> Fused:
    """`fused` with each layer of `keys` twice; its last input, bool [len(keys)], chooses.

    Where that is true the layer counts whose key ends in `KEPT`, else the one in `FEW`. There is
    one entry function, for all sizes.
    """
    model, name = fused.model, "kept"
    while any(name == spec.name for spec in model.inputs):
        name += "_"
    functions = {
        gvar: other for gvar, other in fused.module.functions.items()
        if not (other.attrs and "global_symbol" in other.attrs)
    }
    functions[fused.module.get_global_var("main")] = _both(fused.module["main"], keys, name)
    model = replace(
        model,
        inputs=(*model.inputs, TensorSpec(name, (len(keys),), "bool")),
        dims={each: replace(dim, buckets=()) for each, dim in model.dims.items()},
    )
    module = IRModule(functions, attrs=fused.module.attrs)
    return Fused(model, module, {"main": {}}, Explanation())


def _both(func: relax.Function, keys: Sequence[str], name: str) -> relax.Function:
    inputs = int(func.attrs["num_input"])
    kept = relax.Var(name, relax.TensorType([len(keys)], "bool"))
    params = [*func.params[:inputs], kept, *func.params[inputs:]]
    graph, places = Graph(func), {key: place for place, key in enumerate(keys)}
    replacements: dict[relax.Var, Replacement] = {}
    for var, value in graph:
        if (place := places.get(str(var.name))) is None:
            continue
        before: list[relax.VarBinding] = []
        few, more = (emit(before, value, f"{var.name}{end}") for end in (FEW, KEPT))
        one = relax.op.strided_slice(kept, [0], [place], [place + 1])
        one = emit(before, one, f"{var.name}_switch")
        replacements[var] = Replacement(relax.op.where(one, more, few), before)
    func = rebuild(func, list(graph.bindings), params).with_attr("num_input", inputs + 1)
    return Graph(func).replaced(replacements)
