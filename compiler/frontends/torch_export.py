"""A module that runs on named tensors -> ONNX in a temporary folder -> Model."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from pocketformer.compiler.errors import BadDim, BadModel
from pocketformer.compiler.frontends.onnx import load_onnx
from pocketformer.compiler.frontends.torch_quiet import (
    evaluating,
    no_standard_output,
    quiet,
    reason,
)
from pocketformer.compiler.model import Dim, Model

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]
Symbols = Mapping[str, Mapping[int, str]]    # by input, the symbol of each axis that is to vary
TRACED_OPSET = 17    # the first with LayerNormalization and the last that the tracer is made for


@dataclass(frozen=True)
class Export:
    """What to export: `call`, which runs `module` on named tensors, with `inputs` as an example."""

    module: torch.nn.Module
    call: Callable[[Tensors], Any]
    inputs: Tensors
    symbols: Symbols = field(default_factory=dict)


def load_export(export: Export, dims: Mapping[str, Dim], name: str) -> Model:
    """Export and import; the outputs bear the names that the module gives them.

    Raises BadModel with the reasons of both exporters, BadDim for an axis that cannot vary.
    """
    with (
        evaluating(export.module),
        # Windows cannot delete a file whose weights the Model has mapped.
        tempfile.TemporaryDirectory(prefix="pocketformer-", ignore_cleanup_errors=True) as folder,
    ):
        path = Path(folder) / "model.onnx"
        names = write_onnx(replace(export, inputs=_enlarged(export)), path)
        _check_symbols(path, export)
        model = load_onnx(path, dims, name)
    outputs = [replace(spec, name=own) for spec, own in zip(model.outputs, names, strict=True)]
    return replace(model, outputs=tuple(outputs))


def write_onnx(export: Export, path: Path) -> list[str]:
    """Write ONNX by torch.export, else by tracing, and return the outputs' names.

    torch.export comes first although it takes longer: tracing keeps what the module's code decided
    by the example's values or sizes, without a word.
    """
    flat, heard = _flat(export)
    try:
        with quiet():
            _write_exported(flat, export, path)
            return heard.names
    except Exception as error:    # whatever the module's own code raises comes out here
        why = reason(error)
    if heard.refusal:
        raise BadModel(heard.refusal)
    _check_sizes(export)
    try:
        with quiet() as warned:
            _write_traced(flat, export, path)
    except Exception as error:
        raise BadModel(
            f"{type(export.module).__name__} cannot be exported: torch.export says {why}; "
            f"tracing says {reason(error)}"
        ) from error
    if any(warning.category.__name__ == "TracerWarning" for warning in warned):
        warnings.warn(
            f"torch.export did not take the module ({why}), so it was traced: what its code "
            "decides by the values of its inputs stays as it was for the example inputs",
            stacklevel=2,
        )
    return heard.names


def _write_exported(flat: Any, export: Export, path: Path) -> None:
    import torch

    shapes = [dict(export.symbols.get(name, {})) or None for name in export.inputs]
    program = torch.onnx.export(
        flat,
        tuple(export.inputs.values()),
        input_names=list(export.inputs),
        dynamic_shapes=(tuple(shapes),) if any(shapes) else None,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for value in list(program.model.graph.initializers.values()):
        value.name = value.name.removeprefix("module.")
    # Tensors go straight from the module's memory to a file, from where the importer maps them.
    program.save(str(path), external_data=True)


def _write_traced(flat: Any, export: Export, path: Path) -> None:
    import torch

    with no_standard_output():    # the tracer prints the whole graph when it fails
        torch.onnx.export(
            flat,
            tuple(export.inputs.values()),
            str(path),
            input_names=list(export.inputs),
            dynamic_axes={name: dict(axes) for name, axes in export.symbols.items()},
            opset_version=TRACED_OPSET,
            dynamo=False,
        )


@dataclass
class Heard:
    """What was noted while the module ran; torch.export would undo changes of the module itself."""

    names: list[str] = field(default_factory=list)
    refusal: str = ""


def _flat(export: Export) -> tuple[torch.nn.Module, Heard]:
    """A module from tensors in order to a tuple of tensors, and what it notes as it runs."""
    import torch

    heard = Heard()

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = export.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = export.call(dict(zip(export.inputs, tensors, strict=True)))
            named = dict(name_outputs(found, ""))
            if not named:
                heard.refusal = f"{type(export.module).__name__} returns no tensor"
                raise ValueError(heard.refusal)
            heard.names = list(named)
            return tuple(named.values())

    return Flat().eval(), heard


def name_outputs(found: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors within what a module returned: by their keys, else `output` or `output_0`, ..."""
    import torch

    if isinstance(found, torch.Tensor):
        yield name or "output", found
    elif isinstance(found, Mapping):    # also what models of transformers return
        for key, value in found.items():
            yield from name_outputs(value, f"{name}_{key}" if name else str(key))
    elif isinstance(found, (tuple, list)):
        keys = getattr(found, "_fields", range(len(found)))
        start = name if name or hasattr(found, "_fields") else "output"
        for key, value in zip(keys, found, strict=True):
            yield from name_outputs(value, f"{start}_{key}" if start else str(key))


def _enlarged(export: Export) -> Tensors:
    """The example with two of what is one along an axis that is to vary.

    Code that asks whether a size is one would otherwise be exported for that size alone.
    """
    inputs = dict(export.inputs)
    for name, axes in export.symbols.items():
        for axis in axes:
            if inputs[name].shape[axis] == 1:
                inputs[name] = inputs[name].repeat_interleave(2, dim=axis)
    return inputs


def _check_sizes(export: Export) -> None:
    """Raise BadDim unless the module itself runs with other sizes: tracing would not notice."""
    for symbol in {symbol for axes in export.symbols.values() for symbol in axes.values()}:
        inputs, size, other = dict(export.inputs), 0, 0
        for name, axes in export.symbols.items():
            for axis in (axis for axis, own in axes.items() if own == symbol):
                size = inputs[name].shape[axis]
                other = size - 1 if size > 2 else size + 1
                doubled = inputs[name].repeat_interleave(2, dim=axis)
                inputs[name] = doubled.narrow(axis, 0, other)
        try:
            with quiet():
                export.call(inputs)
        except Exception as error:
            raise BadDim(
                f"dimension {symbol!r} cannot vary: with {other} in the place of {size} "
                f"the module says {reason(error)}"
            ) from error


def _check_symbols(path: Path, export: Export) -> None:
    """Raise BadDim if an axis was to vary and the exporter found that it cannot."""
    graph = onnx.load(path, load_external_data=False).graph
    for value in graph.input:
        sizes = value.type.tensor_type.shape.dim
        for axis in export.symbols.get(value.name, {}):
            if sizes[axis].HasField("dim_value"):
                raise BadDim(
                    f"axis {axis} of input {value.name!r} cannot vary: "
                    f"the module's code works for {sizes[axis].dim_value} only"
                )
