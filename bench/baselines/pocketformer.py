"""pocketformer itself, compiled for the sizes at hand and for any length."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pocketformer as pf
from bench import onnx_files
from bench.baselines.peer import Peer, Refuses, Sizes
from bench.calibration import calibration
from bench.models import BenchModel
from pocketformer.compiler.arrays import write_arrays
from pocketformer.compiler.worker import Worker

ENGINE = "pocketformer.compiler.engines:Pocketformer"
PACKAGES = ("pocketformer", "apache-tvm", "apache-tvm-ffi")
COST = "cost.json"
SOURCES = {".py", ".toml", ".jsonl", ".c", ".cc", ".h"}


class Ours(Peer):
    """Its version tells its sources, too: a figure of others is no longer ours."""

    def versions(self) -> dict[str, str]:
        found = super().versions()
        return {**found, "pocketformer": f"{pf.__version__}+{sources()}"}


@functools.cache
def sources() -> str:
    """A short digest of pocketformer's sources."""
    digest = hashlib.sha256()
    root = Path(pf.__file__).parent
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]    # maybe links
    files = [*root.glob("*.py"), *(f for folder in folders for f in folder.rglob("*"))]
    for file in sorted(file for file in files if file.suffix in SOURCES):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def cost(bundle: Path) -> dict[str, float]:
    """What compiling it took: `seconds`, `peak_bytes` above the imports', `bundle_bytes`."""
    found: dict[str, float] = json.loads((bundle.parent / f"{bundle.stem}.{COST}").read_text())
    return found


def _compiled(
    name: str, dims: Callable[[Sizes], dict[str, Any]], calibrated: bool = False, **options: Any
) -> Any:
    """A `Peer.file` that compiles in a process of its own."""

    def file(model: BenchModel, sizes: Sizes) -> Path:
        wanted = dims(sizes)
        output = model.sized(sizes) / f"{name}-{sources()}.pf"
        told = output.parent / f"{output.stem}.{COST}"
        if not told.exists():
            source = onnx_files.plain(model)
            given = {"calibrate": str(calibration_files(model, sizes))} if calibrated else {}
            with Worker("pocketformer.compiler.engines:Compiler") as worker:
                done = worker.ask("compile", source=str(source), output=str(output),
                                  target="host", dims=wanted, **given, **options)
                told.write_text(json.dumps({
                    "seconds": done["seconds"],
                    "peak_bytes": done["peak_bytes"] - worker.baseline_bytes,
                    "bundle_bytes": sum(each.stat().st_size for each in output.iterdir()),
                }))
        return output

    return file


def _known(sizes: Sizes) -> dict[str, Any]:
    return {axis: str(size) for axis, size in sizes.items()}


def _any_length(sizes: Sizes) -> dict[str, Any]:
    if "seq" not in sizes:
        raise Refuses("all of its sizes but the batch are fixed")
    return {**_known(sizes), "seq": "1..512"}


def calibration_files(model: BenchModel, sizes: Sizes) -> Path:
    """A folder of the batches that int8 is calibrated on, a file each."""
    folder = model.sized(sizes) / "calibration"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            part = Path(name) / folder.name
            part.mkdir()
            for number, batch in enumerate(calibration(model, sizes)):
                write_arrays(part / f"{number:04}.npz", batch)
            part.replace(folder)
    return folder


PEERS = (
    Ours("pocketformer", "pocketformer", ENGINE, PACKAGES, _compiled("known", _known)),
    Ours("pocketformer-any", "pocketformer, any length", ENGINE, PACKAGES,
         _compiled("any", _any_length)),
    Ours("pocketformer-bf16", "pocketformer bf16", ENGINE, PACKAGES,
         _compiled("bf16", _known, recipe="bfloat16"), "bfloat16"),
    Ours("pocketformer-int8", "pocketformer int8", ENGINE, PACKAGES,
         _compiled("int8", _known, calibrated=True, recipe="int8"), "int8"),
    Ours("pocketformer-int8-dynamic", "pocketformer dynamic int8", ENGINE, PACKAGES,
         _compiled("int8-dynamic", _known, recipe="int8-dynamic"), "int8-dynamic"),
)
