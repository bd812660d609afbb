"""What a run is given, checked against the manifest: names, dtypes, shapes and named dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import ml_dtypes  # noqa: F401 - teaches numpy the names bfloat16 and float8_*
import numpy as np

from pocketformer.compiler.axes import evaluate, solve
from pocketformer.compiler.errors import BadDim, BadInput
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import Entry
from pocketformer.compiler.model import Dim, TensorSpec

Shapes = tuple[tuple[int, ...], ...]


class Inputs:
    """The inputs of a model or bundle; its methods raise BadInput in one sentence."""

    def __init__(self, inputs: tuple[TensorSpec, ...], dims: Mapping[str, Dim]) -> None:
        self.inputs, self.dims = inputs, dims
        self.names = tuple(spec.name for spec in inputs)
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in inputs}

    def arrays(self, given: Mapping[str, Any]) -> list[np.ndarray]:
        """The given inputs in their order, as arrays of the right dtype; shapes are unchecked."""
        if set(given) != self._dtypes.keys():
            raise BadInput(self._name_fault(given))
        arrays = []
        for name, dtype in self._dtypes.items():
            array = given[name]
            if type(array) is not np.ndarray:
                array = _as_array(name, array)
            if array.dtype != dtype:
                raise BadInput(
                    f"{name} has dtype {array.dtype}, the model takes {dtype}; "
                    f"convert it with {name}.astype({dtype.name!r})"
                )
            arrays.append(array)
        return arrays

    def _name_fault(self, given: Mapping[str, Any]) -> str:
        unexpected = [name for name in given if name not in self.names]
        missing = [name for name in self.names if name not in given]
        takes = "; ".join(map(str, self.inputs)) or "no inputs"
        if not unexpected:
            return f"the input {_list(missing)} is missing; the model takes {takes}"
        near = get_close_matches(unexpected[0], missing or self.names, 1)
        hint = f", did you mean {near[0]!r}" if near else ""
        return f"the model has no input {_list(unexpected)}{hint}; it takes {takes}"

    def sizes(self, shapes: Shapes) -> dict[str, int]:
        """The size of every named dimension, once all the shapes are known to fit."""
        sizes: dict[str, int] = {}
        source: dict[str, str] = {}
        formulas = []
        for spec, shape in zip(self.inputs, shapes, strict=True):
            if len(shape) != len(spec.shape):
                raise BadInput(f"{_has(spec, shape)}; the model takes {spec}")
            for axis, size in zip(spec.shape, shape, strict=True):
                if isinstance(axis, str) and axis in self.dims:
                    if sizes.setdefault(axis, size) != size:
                        raise BadInput(
                            f"{_has(spec, shape)}, where {axis} is {size}, "
                            f"but {axis} is {sizes[axis]} in {source[axis]}"
                        )
                    source.setdefault(axis, spec.name)
                elif isinstance(axis, str):
                    formulas.append((axis, size))
                elif axis != size:
                    raise BadInput(f"{_has(spec, shape)}; the model takes {spec}")
        for axis, size in formulas:
            sizes = solve(axis, size, sizes)
        for spec, shape in zip(self.inputs, shapes, strict=True):
            self._check_formulas(spec, shape, sizes)
        return sizes

    def _check_formulas(
        self, spec: TensorSpec, shape: tuple[int, ...], sizes: Mapping[str, int]
    ) -> None:
        for axis, size in zip(spec.shape, shape, strict=True):
            if not isinstance(axis, str):
                continue
            if axis in self.dims and not self.dims[axis].allows(size):
                limits = _limits(self.dims[axis])
                raise BadInput(f"{_has(spec, shape)}; {axis} is {size} and must {limits}")
            try:
                wanted = evaluate(axis, sizes)
            except BadDim as error:
                raise BadInput(f"{_has(spec, shape)}; {error}") from None
            if wanted != size:
                raise BadInput(f"{_has(spec, shape)}; the axis {axis} is {size}, not {wanted}")


class Signature(Inputs):
    """The inputs and outputs of a bundle; its methods raise BadInput in one sentence.

    Among the entries are those of `level`, of the base where none is given.
    """

    def __init__(self, manifest: Manifest, level: str | None = None) -> None:
        super().__init__(manifest.inputs, manifest.dims)
        self.outputs = manifest.outputs
        if level is None:
            level = manifest.levels[0].name if manifest.levels else ""
        self.entries = [entry for entry in manifest.entries if entry.level == level]
        # The most special entry first; sorted() keeps the manifest's order among equals.
        self._entries = sorted(self.entries, key=lambda entry: -len(entry.dims))

    def entry(self, sizes: Mapping[str, int]) -> Entry:
        """The entry made for most of `sizes`, and for nothing else than them."""
        for entry in self._entries:
            if all(sizes.get(name) == size for name, size in entry.dims.items()):
                return entry
        got = ", ".join(f"{name} {size}" for name, size in sizes.items())
        made = "; ".join(
            ", ".join(f"{name} {size}" for name, size in entry.dims.items())
            for entry in reversed(self._entries)
        )
        raise BadInput(f"no code was compiled for {got}; the bundle has {made}")

    def output_names(self, chosen: object) -> list[str]:
        """The outputs that `run(outputs=...)` names."""
        names = [spec.name for spec in self.outputs]
        if isinstance(chosen, str) or not hasattr(chosen, "__iter__"):
            raise BadInput(f"outputs is {chosen!r}, not a list of names or a dict of arrays")
        for name in chosen:
            if name not in names:
                near = get_close_matches(str(name), names, 1)
                hint = f", did you mean {near[0]!r}" if near else ""
                raise BadInput(f"the model has no output {name!r}{hint}; it has {_list(names)}")
        return list(chosen)


def check_outputs(given: Mapping[str, Any], results: Mapping[str, np.ndarray]) -> None:
    """Raise BadInput if a result does not fit the array that a caller gave for it."""
    for name, array in given.items():
        result = results[name]
        if not isinstance(array, np.ndarray):
            raise BadInput(f"the output {name} is to be written to a {type(array).__name__}, "
                           "not to a numpy array")
        if array.shape != result.shape or array.dtype != result.dtype:
            raise BadInput(f"the array for the output {name} is {array.dtype}{list(array.shape)}; "
                           f"this run gives {result.dtype}{list(result.shape)}")
        if not array.flags.writeable:
            raise BadInput(f"the array for the output {name} is read-only")


def _as_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if not hasattr(value, "__dlpack__"):
        raise BadInput(f"{name} is a {type(value).__name__}; pass a numpy array or a tensor of a "
                       "library that has DLPack, such as PyTorch")
    try:
        return np.from_dlpack(value)
    except Exception as error:    # of a class that the other library chooses
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadInput(f"{name} cannot be read as an array on the CPU: {reason}") from None


def _has(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    return f"{spec.name} has shape {shape}"


def _limits(dim: Dim) -> str:
    if dim.fixed is not None:
        return f"be {dim.fixed}"
    return f"be at least {dim.low}" if dim.high is None else f"lie in {dim.low}..{dim.high}"


def _list(names: list[str]) -> str:
    return ", ".join(map(repr, names))
