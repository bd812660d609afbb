"""Bundles for the native runtime to open, compiled once, and ways to damage one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

import pocketformer as pf
from pocketformer import runtime
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.model import TensorSpec
from pocketformer.runtime import Runtime
from tests.compiler.kinds import save_kinds
from tests.compiler.tiny import Tiny, build, tiny_manifest, tiny_weights
from tests.encoder import VOCABULARY, encoder


@cache
def built() -> Runtime:
    return runtime.build("host")


def save_encoder(folder: Path, kind: str) -> Path:
    """An encoder of one layer: of a fixed length, with buckets, symbolic, or with its weights in
    the library."""
    batch: int | str = "batch" if kind == "symbolic" else 1
    dims: dict[str, str | int] = {
        "fixed": {"seq": 16}, "buckets": {"seq": "8,16,32"}, "symbolic": {},
        "embedded": {"seq": "8,16"},
    }[kind]
    path = folder / f"{kind}.pf"
    pf.compile(encoder(batch), "host", dims=dims, embed_weights=kind == "embedded").save(path)
    return path


def save_tiny(folder: Path, name: str = "tiny.pf", scale: float = 1.0, **changes: Any) -> Path:
    """The tiny model with other weights, and with `changes` in its manifest."""
    library = folder / "tiny.so"
    if not library.exists():
        build(Tiny, library)
    weights = {key: array * np.float32(scale) for key, array in tiny_weights().items()}
    Bundle.create(library, weights, replace(tiny_manifest(), **changes)).save(folder / name)
    return folder / name


def save_embedded(folder: Path, name: str, scale: float) -> Path:
    """The tiny model with weights of `scale` inside its library."""
    module = Tiny
    for function in ("main", "main_seq_4"):
        weights = {
            key: tvm.runtime.tensor(array * np.float32(scale))
            for key, array in tiny_weights().items()
        }
        module = relax.transform.BindParams(function, weights)(module)
    library = build(module, folder / f"{name}.so")
    Bundle.create(library, {}, tiny_manifest(embedded=True)).save(folder / name)
    return folder / name


def save_many_kinds(folder: Path) -> Path:
    folder.mkdir()
    return save_kinds(folder)


def values(specs: tuple[TensorSpec, ...], **sizes: int) -> dict[str, np.ndarray]:
    """Random inputs for `specs`."""
    random = np.random.default_rng(3)
    found = {}
    for spec in specs:
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        most = VOCABULARY if spec.name in ("ids", "input_ids") else 2
        found[spec.name] = random.integers(0, most, shape).astype(spec.dtype)
    return found


# Ways to damage a bundle.

def change_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def make_link(path: Path) -> None:
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    path.symlink_to(away.name)


def rewrite(folder: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the manifest's text; its checksum is left as it was."""
    path = folder / "manifest.json"
    path.write_bytes(change(path.read_bytes()))


def resign(folder: Path, **changes: Any) -> None:
    """Change the manifest and give it the right checksum again."""
    path = folder / "manifest.json"
    manifest = Manifest.from_json(path.read_bytes())
    for name, value in changes.items():
        object.__setattr__(manifest, name, value)    # past the checks of a Manifest
    path.write_bytes(manifest.to_json())


def truncate(path: Path, count: int = 1) -> None:
    os.truncate(path, path.stat().st_size - count)
