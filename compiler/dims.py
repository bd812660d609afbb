"""Fixes, limits or specialises the symbolic dimensions of a Model that has been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tvm import ir, relax, tirx

from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.model import Axis, Dim, Model, TensorSpec

SIGNS = {tirx.Add: "+", tirx.Sub: "-", tirx.Mul: "*", tirx.FloorDiv: "//", tirx.FloorMod: "%"}
FUNCTIONS = {tirx.Min: "min", tirx.Max: "max"}


def apply_dims(model: Model, dims: Mapping[str, Dim]) -> Model:
    """`model` with each dimension of `dims` fixed, limited or given buckets.

    A key is a dimension's name, or `INPUT.AXIS` with a name or an index. Raises BadDim for a key
    that the model does not have, for sizes that it does not allow, and for two that contradict.
    """
    wanted: dict[str, Dim] = {}
    for key, dim in dims.items():
        found = _dimension_of(model, key)
        if isinstance(found, int):
            if dim.fixed != found:
                raise BadDim(f"dimension {key!r} is {found} in the model, it cannot become {dim}")
            continue
        narrowed = _narrowed(key, model.dims[found], dim)
        if wanted.setdefault(found, narrowed) != narrowed:
            raise BadDim(f"dimension {found!r} is said to be {wanted[found]} and also {narrowed}")
    sizes = {name: dim.low for name, dim in wanted.items() if dim.fixed is not None}
    kept = {name: wanted.get(name, dim) for name, dim in model.dims.items() if name not in sizes}
    module = specialise(model, sizes)
    inputs, outputs = signature_of(module, model)
    unfixed = model.unfixed or (model if sizes else None)
    return replace(
        model, module=module, inputs=inputs, outputs=outputs, dims=kept, unfixed=unfixed
    )


def specialise(model: Model, sizes: Mapping[str, int]) -> ir.IRModule:
    """The model's module with the dimensions of `sizes` fixed; the others stay symbolic.

    Raises BadDim for an unknown dimension or a size outside its range.
    """
    for name, size in sizes.items():
        if name not in model.dims:
            raise BadDim(f"the model has no dimension {name!r}; {_listed(model)}")
        if not model.dims[name].allows(size):
            raise BadDim(f"dimension {name!r} is {model.dims[name]}, it cannot be {size}")
    if not sizes:
        return model.module
    return relax.transform.BindSymbolicVars(dict(sizes), "main")(model.module)


def signature_of(
    module: ir.IRModule, model: Model
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of `module`, a form of the model's own, under the model's names."""
    function = module["main"]
    inputs = tuple(
        replace(spec, shape=axes_of(param.ty))
        for spec, param in zip(model.inputs, function.params, strict=False)
    )
    outputs = tuple(
        replace(spec, shape=axes_of(ty))
        for spec, ty in zip(model.outputs, function.ret_ty.fields, strict=True)
    )
    return inputs, outputs


def axes_of(ty: relax.TensorType) -> tuple[Axis, ...]:
    """The shape of a tensor's type. Raises BadDim for a size that is no formula of an Axis."""
    return tuple(axis_of(size) for size in ty.shape.values)


def axis_of(size: Any) -> Axis:
    if isinstance(size, tirx.IntImm):
        return int(size.value)
    text = _formula(size)
    return text[1:-1] if text.startswith("(") else text


def _formula(size: Any) -> str:
    """A sum or product in brackets, so that it can stand in any other."""
    if isinstance(size, tirx.IntImm):
        return str(int(size.value))
    if isinstance(size, ir.Var):
        return str(size.name)
    for kind, sign in SIGNS.items():
        if isinstance(size, kind):
            return f"({_formula(size.a)} {sign} {_formula(size.b)})"
    for kind, name in FUNCTIONS.items():
        if isinstance(size, kind):
            return f"{name}({_formula(size.a)}, {_formula(size.b)})"
    raise BadDim(f"the size {size} of an output is too complicated; fix some dimensions")


def _dimension_of(model: Model, key: str) -> str | int:
    """The dimension's name, or its size where the model fixes it."""
    if key in model.dims:
        return key
    for spec in model.inputs:
        for index, axis in enumerate(spec.shape):
            if key in (f"{spec.name}.{index}", f"{spec.name}.{axis}"):
                if isinstance(axis, int) or axis in model.dims:
                    return axis
                raise BadDim(f"dimension {key!r} is {axis}; give the dimensions in that instead")
    raise BadDim(f"the model has no dimension {key!r}; {_listed(model)}")


def _narrowed(key: str, allowed: Dim, wanted: Dim) -> Dim:
    """`wanted`, which must lie in `allowed`; where it has no upper limit it takes that one's."""
    if wanted.high is None and allowed.high is not None and wanted.low <= allowed.high:
        wanted = replace(wanted, high=allowed.high)
    if wanted.low < allowed.low or (
        allowed.high is not None and (wanted.high is None or wanted.high > allowed.high)
    ):
        raise BadDim(f"dimension {key!r} is {allowed} in the model, it cannot become {wanted}")
    return wanted


def _listed(model: Model) -> str:
    names = ", ".join(f"{name} ({dim})" for name, dim in model.dims.items())
    axes = ", ".join(
        f"{spec.name}.0..{spec.name}.{len(spec.shape) - 1}" for spec in model.inputs if spec.shape
    )
    return f"its dimensions are {names or 'all fixed'}, its axes {axes}"
