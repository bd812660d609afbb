"""load(): an ONNX file, a PyTorch module or a Hugging Face folder -> Model."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.errors import BadModel, PocketformerError
from pocketformer.compiler.model import Dim, parse_dims

if TYPE_CHECKING:
    from pocketformer.compiler.model import Model

# What people hold when they have a model but not in a form that can be read, and the way out.
OTHER_FILES = {
    **dict.fromkeys(
        (".pt", ".pth", ".bin", ".ckpt"),
        "a pickle that could run any code; build the module and load it with example_inputs",
    ),
    ".pt2": "a torch.export archive; load its module with example_inputs",
    ".safetensors": "weights alone; give the folder that also holds config.json",
    ".tflite": "a LiteRT model; export the model to ONNX",
    ".h5": "a Keras model; export the model to ONNX",
    ".keras": "a Keras model; export the model to ONNX",
    ".gguf": "a llama.cpp model; give the folder with config.json and model.safetensors",
}


def load(
    source: Any,
    *,
    example_inputs: Any = None,
    dims: Mapping[str, str | int | Dim] | None = None,
    component: str | None = None,
    name: str | None = None,
) -> Model:
    """Read a model.

    `source` is the path of an ONNX file, an onnx.ModelProto, a torch.nn.Module (then with
    `example_inputs`: a tensor, a tuple, or a dict by input name), or a folder: one that
    transformers' save_pretrained writes, or one that holds a model.onnx. `dims` fixes, limits or
    buckets dimensions by name or `INPUT.AXIS`: `{"seq": 128}`, `{"seq": "1..512"}`,
    `{"seq": "16,32,64"}`. `component` is "encoder" or "decoder" for a folder that has both.

    Raises BadModel (with UnsupportedOperator) for a source that cannot be read, BadDim, and
    MissingPackage where PyTorch or transformers is needed.
    """
    parsed = parse_dims(dims)
    is_module = _is_a(source, "torch", "nn.Module")
    if example_inputs is not None and not is_module:
        raise BadModel("example_inputs go with a PyTorch module; this source has its own inputs")
    is_path = isinstance(source, (str, os.PathLike))
    if component is not None and not (is_path and Path(source).is_dir()):
        raise BadModel("component goes with a Hugging Face folder; this source is a single model")
    if is_module:
        if example_inputs is None:
            raise BadModel(
                "a PyTorch module needs example_inputs: load(module, example_inputs={'x': tensor})"
            )
        from pocketformer.compiler.frontends.torch import load_torch

        return load_torch(source, example_inputs, parsed, name)
    if is_path:
        return _load_path(Path(source), parsed, component, name)
    from pocketformer.compiler.frontends.onnx import load_onnx

    if not _is_a(source, "onnx", "ModelProto"):
        raise BadModel(
            f"cannot load a {type(source).__name__}; give the path of an ONNX file or of a "
            "Hugging Face folder, an onnx.ModelProto or a torch.nn.Module"
        )
    return load_onnx(source, parsed, name)


def load_then_fix(
    source: Any, dims: Mapping[str, str | int | Dim] | None = None, **how: Any
) -> Model:
    """As `load`, but sizes are fixed after the import, so that the Model's `unfixed` is there.

    A source that cannot be imported without them is read as `load` does, and so is a PyTorch
    module, whose example has the sizes that nothing else opens.
    """
    parsed = parse_dims(dims)
    fixed = {name: dim for name, dim in parsed.items() if dim.fixed is not None}
    others = {name: dim for name, dim in parsed.items() if name not in fixed}
    if fixed and not _is_a(source, "torch", "nn.Module"):
        try:
            return load(source, dims=others, **how).with_dims(fixed)
        except PocketformerError:
            pass    # what is wrong with it without them, or with them, `load` tells
    return load(source, dims=dims, **how)


def _load_path(
    path: Path, dims: Mapping[str, Dim], component: str | None, name: str | None
) -> Model:
    if not path.exists():
        raise BadModel(
            f"there is no file or folder {str(path)!r}; "
            "models are read from this machine, nothing is downloaded"
        )
    if path.is_dir():
        from pocketformer.compiler.frontends.huggingface import load_folder

        return replace(load_folder(path, dims, component, name), folder=path)
    if (kind := OTHER_FILES.get(path.suffix.lower())) is not None:
        raise BadModel(f"{str(path)!r} is not an ONNX file but {kind}")
    from pocketformer.compiler.frontends.onnx import load_onnx

    return replace(load_onnx(path, dims, name), folder=path.parent)


def _is_a(value: Any, package: str, name: str) -> bool:
    """Whether `value` is of a class of a package that may not be imported, or not be installed."""
    found: Any = sys.modules.get(package)
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(value, found)
