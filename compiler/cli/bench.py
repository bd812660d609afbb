"""`pocketformer bench`: a bundle's or a model's speed, beside onnxruntime's."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketformer.compiler.arrays import write_arrays
from pocketformer.compiler.cli.bench_device import bench_device
from pocketformer.compiler.cli.common import (
    Debug,
    Device,
    Dims,
    Json,
    Timeout,
    TokenFile,
    err,
    guarded,
    key_values,
    out,
    print_json,
    progress,
    read_token_file,
)
from pocketformer.compiler.cli.inspect import is_bundle
from pocketformer.compiler.errors import BadInput, MissingPackage
from pocketformer.compiler.progress import Progress

if TYPE_CHECKING:
    from pocketformer.compiler.bench import Contender
    from pocketformer.compiler.manifest import Manifest
    from pocketformer.compiler.session import Session


@guarded
def bench(
    path: Annotated[
        Path,
        typer.Argument(help="A bundle, .onnx file or Hugging Face folder.", show_default=False),
    ],
    against: Annotated[
        Path | None,
        typer.Option(help="The .onnx file for onnxruntime; an .onnx model is its own."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", "-j", min=1, help="Worker threads.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Timed calls of each engine.")] = 60,
    dim: Dims = None,
    device: Device = None,
    token_file: TokenFile = None,
    timeout: Timeout = 60.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time a bundle, or a model compiled for this machine, beside onnxruntime.

    Each engine has its own process, and they take turns. With --device, a bundle is timed by the
    device's own clock; onnxruntime still runs on this machine.

    For a bundle, --dim tells the sizes to run at; for a model, those to compile for.
    """
    from pocketformer.compiler import report
    from pocketformer.compiler.bench import largest_error, race

    rival = _rival(path, against)
    if device is not None:
        bench_device(
            partial(
                _open_session, path, threads, device, read_token_file(token_file), timeout
            ),
            rival,
            runs,
            key_values(dim, "--dim"),
            json,
        )
        return
    with tempfile.TemporaryDirectory() as name, progress("preparing") as step:
        folder = Path(name)
        ours, manifest, sizes = _prepare(path, key_values(dim, "--dim"), folder, step)
        inputs = folder / "inputs.npz"
        contenders = _contenders(ours, manifest, sizes, rival, inputs)
        results = race(contenders, inputs, threads, runs, folder, step)
        outputs = [folder / f"{each.label}.npz" for each in contenders]
        error = largest_error(*outputs) if rival else None
    if json:
        record = {"threads": threads, "sizes": sizes, "engines": [asdict(each) for each in results]}
        if rival:
            ratio = results[0].min_ms / results[1].min_ms
            record |= {"ratio": round(ratio, 4), "largest_error": error}
        print_json(record)
        return
    out.print(report.race_table(results, threads))
    if rival:
        out.print(f"Largest error, relative to the output's scale: {error:.2g}", highlight=False)


def _open_session(
    path: Path, threads: int, device: str, token: str | None, timeout: float, step: Progress
) -> Session:
    from pocketformer.compiler.session import Session

    if not path.exists():
        raise BadInput(f"{path} does not exist")
    if not is_bundle(path):
        raise BadInput(
            f"{path} is no bundle, and only a bundle can run on a device; compile it first: "
            f"pocketformer compile {path} --target NAME (pocketformer targets lists them)"
        )
    return Session(
        path, threads, device=device, token=token, timeout=timeout, progress=step
    )


def _rival(path: Path, against: Path | None) -> Path | None:
    """The ONNX file for onnxruntime, or None where there is none or it is not installed."""
    source = against or (path if path.suffix == ".onnx" else None)
    if source and importlib.util.find_spec("onnxruntime"):
        return source
    if against:
        raise MissingPackage("--against needs onnxruntime; install it: pip install onnxruntime")
    why = "onnxruntime is not installed" if source else "--against FILE.onnx adds onnxruntime"
    err.print(f"[yellow]note:[/] {why}; timing our engine alone")
    return None


def _prepare(
    path: Path, dims: dict[str, str], folder: Path, step: Progress
) -> tuple[Path, Manifest, dict[str, int]]:
    """The bundle to time, its manifest, and a size for each of its dimensions."""
    from pocketformer.compiler.bundle import Bundle
    from pocketformer.compiler.example_inputs import pick_sizes

    if is_bundle(path):
        manifest = Bundle.load(path).manifest
        return path, manifest, pick_sizes(manifest.dims, dims)
    from pocketformer.compiler.build import compile as compile_model

    bundle = compile_model(path, dims=dims, progress=step)
    bundle.save(folder / "model.pf")
    return folder / "model.pf", bundle.manifest, pick_sizes(bundle.manifest.dims, {})


def _contenders(
    ours: Path, manifest: Manifest, sizes: Mapping[str, int], rival: Path | None, inputs: Path
) -> list[Contender]:
    """Both engines; writes the arrays that they run on to the file `inputs`."""
    from pocketformer.compiler.bench import Contender, onnx_sizes
    from pocketformer.compiler.example_inputs import make_inputs

    arrays = make_inputs(manifest.inputs, sizes)
    write_arrays(inputs, arrays)
    contenders = [Contender("pocketformer", "pocketformer.compiler.engines:Pocketformer", ours)]
    if rival:
        told = onnx_sizes(rival, arrays)
        engine = "pocketformer.compiler.engines:Onnxruntime"
        contenders.append(Contender("onnxruntime", engine, rival, told))
    return contenders
