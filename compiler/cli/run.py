"""`pocketformer run`: a bundle on given inputs, or on made-up ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from pocketformer.compiler.arrays import Arrays, write_arrays
from pocketformer.compiler.cli.common import (
    BundleFile,
    Debug,
    Device,
    InputsFile,
    Json,
    MadeUpSizes,
    OneInput,
    Threads,
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
from pocketformer.compiler.errors import BadInput
from pocketformer.compiler.tables import plain_table


@guarded
def run(
    bundle: BundleFile,
    inputs: InputsFile = None,
    input: OneInput = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz file.")
    ] = None,
    dim: MadeUpSizes = None,
    threads: Threads = None,
    device: Device = None,
    token_file: TokenFile = None,
    timeout: Timeout = 60.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a bundle, here or on a device, and show what it gives; without inputs, on made-up ones.

    Times are the device's own where there is one.
    """
    given = read_inputs(inputs, input)
    with progress(f"loading {bundle}") as step:
        from pocketformer.compiler.session import Session

        token = read_token_file(token_file)
        with Session(
            bundle, threads, device=device, token=token, timeout=timeout, progress=step
        ) as session:
            if not given:
                given = _make_up(session.bundle.manifest, dim)
            step("running", 0.5)
            start = time.perf_counter()
            outputs = session.run(given)
            total = (time.perf_counter() - start) * 1e3
            found, milliseconds = session.device, session.last_ms
    if output:
        write_arrays(output, outputs)
    if found is None or milliseconds is None:
        record: dict[str, Any] = {"ms": round(total, 3)}
        sentence = f"First run: {total:.1f} ms."
    else:
        way = total - milliseconds
        record = {"device": found.key, "ms": round(milliseconds, 3), "round_trip_ms": round(way, 3)}
        sentence = (
            f"First run on {found.name}: {milliseconds:.1f} ms by its own clock, "
            f"and {way:.1f} ms for the way there and back."
        )
    if json:
        print_json({**record, "outputs": _record(outputs)})
        return
    out.print(_table(outputs))
    err.print(escape(sentence), highlight=False, soft_wrap=True)


def _make_up(manifest: Any, dim: Sequence[str] | None) -> Arrays:
    from pocketformer.compiler.example_inputs import make_inputs, pick_sizes

    sizes = pick_sizes(manifest.dims, key_values(dim, "--dim"))
    picked = ", ".join(f"{name}={size}" for name, size in sizes.items())
    err.print(
        "[yellow]note:[/] no inputs given, these are made up"
        + (f" with {picked} (--dim picks others)" if picked else ""),
        soft_wrap=True,
    )
    return make_inputs(manifest.inputs, sizes)


def read_inputs(archive: Path | None, single: Sequence[str] | None) -> Arrays:
    """The arrays of an .npz file and of NAME=FILE.npy options. Raises BadInput."""
    arrays: Arrays = {}
    if archive:
        loaded = _read(archive)
        if isinstance(loaded, np.ndarray):
            raise BadInput(f"{archive} holds one array and no name; give it as --input NAME=FILE")
        with loaded:
            arrays.update(loaded)
    for name, path in key_values(single, "--input").items():
        loaded = _read(Path(path))
        if not isinstance(loaded, np.ndarray):
            raise BadInput(f"{path} holds several arrays; give it without --input")
        arrays[name] = loaded
    return arrays


def _read(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise BadInput(f"{path} is no .npy or .npz file of numbers") from None


def _table(outputs: Mapping[str, np.ndarray]) -> Table:
    table = plain_table("output", "dtype", "shape", "least", "mean", "largest")
    for name, record in _record(outputs).items():
        numbers = [
            "" if record[key] is None else f"{record[key]:.4g}" for key in ("min", "mean", "max")
        ]
        table.add_row(
            escape(name), record["dtype"], " x ".join(map(str, record["shape"])), *numbers
        )
    return table


def _record(outputs: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    def describe(array: np.ndarray) -> dict[str, Any]:
        wide = array.astype(np.float64)
        numbers = (wide.min(), wide.mean(), wide.max()) if wide.size else (None,) * 3
        least, mean, most = (
            float(x) if x is not None and np.isfinite(x) else None for x in numbers
        )
        shape, dtype = list(array.shape), str(array.dtype)
        return {"shape": shape, "dtype": dtype, "min": least, "mean": mean, "max": most}

    return {name: describe(array) for name, array in outputs.items()}
