"""What a model's folder holds, checked before anything of it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketformer.compiler.errors import BadModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def find_onnx(folder: Path) -> Path | None:
    """The ONNX file that the folder is about: model.onnx, onnx/model.onnx, or the only one.

    None if the folder holds weights of transformers or no ONNX file. Raises BadModel where several
    could be meant.
    """
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return None
    for usual in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if usual.is_file():
            return usual
    found = sorted(folder.glob("*.onnx")) or sorted((folder / "onnx").glob("*.onnx"))
    if len(found) > 1:
        raise BadModel(
            f"the folder {str(folder)!r} holds several ONNX files, give the path of one: "
            + ", ".join(str(path.relative_to(folder)) for path in found)
        )
    return found[0] if found else None


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises BadModel if it is not there or not an object."""
    path = folder / "config.json"
    if not path.is_file():
        raise BadModel(
            f"the folder {str(folder)!r} holds neither a config.json nor an ONNX file"
        )
    return _read_json(path)


def check_weights(folder: Path, architecture: str) -> None:
    """Raise BadModel unless the folder's safetensors files are all there and whole."""
    for path in _weight_files(folder, architecture):
        _check_file(path)


def _weight_files(folder: Path, architecture: str) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise BadModel(f"{str(folder / INDEX)!r} has no weight_map")
        names = sorted({str(name) for name in shards.values()})
        # A name with a path in it would let the index read files from elsewhere.
        if outside := [name for name in names if Path(name).name != name]:
            raise BadModel(f"{INDEX} names a file outside the folder: {outside[0]!r}")
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise BadModel(
                f"{len(missing)} of the {len(names)} files with weights are missing from "
                f"{str(folder)!r}, such as {missing[0]!r}"
            )
        return [folder / name for name in names]
    if pickle := next((name for name in PICKLES if (folder / name).is_file()), None):
        raise BadModel(
            f"the weights in {str(folder)!r} are only there as {pickle}, a pickle, which could run "
            "any code and is not read; if you trust it, convert it with "
            f"transformers.{architecture}.from_pretrained(folder).save_pretrained(folder)"
        )
    raise BadModel(f"the folder {str(folder)!r} has a config.json but no {WEIGHTS}")


def _check_file(path: Path) -> None:
    """safetensors compares the sizes that its header gives with the file's."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            file.keys()
    except (safetensors.SafetensorError, OSError) as error:
        raise BadModel(
            f"{str(path)!r} is truncated or no safetensors file: {error}"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadModel(f"{str(path)!r} holds no JSON object")
    return content
