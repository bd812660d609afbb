"""`pocketformer bench --device`: a bundle by a device's clock; onnxruntime only on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from pocketformer.compiler.arrays import Arrays, write_arrays
from pocketformer.compiler.cli.common import err, out, print_json, progress
from pocketformer.compiler.progress import Progress

if TYPE_CHECKING:
    from pocketformer.compiler.bench import DeviceResult, Result
    from pocketformer.compiler.session import Session


def bench_device(
    open_session: Callable[[Progress], Session],
    rival: Path | None,
    runs: int,
    dims: Mapping[str, str],
    json: bool,
) -> None:
    """Time the session, and onnxruntime here with the ONNX file `rival`, and print both."""
    from pocketformer.compiler import report
    from pocketformer.compiler.bench import measure
    from pocketformer.compiler.example_inputs import make_inputs, pick_sizes

    with progress("preparing") as step:
        start = time.perf_counter()
        with open_session(step) as session:
            load_ms = (time.perf_counter() - start) * 1e3
            assert session.device is not None
            name, threads = session.device.name, session.threads
            sizes = pick_sizes(session.bundle.manifest.dims, dims)
            inputs = make_inputs(session.inputs, sizes)
            step(f"timing on {session.device.key}", 0.5)
            ours = measure(session, inputs, runs, f"pocketformer on {name}", load_ms)
            outputs = session.run(inputs)
        results: list[Result] = [ours]
        if rival:
            theirs, error = _onnxruntime(rival, inputs, outputs, threads, runs, step)
            results.append(theirs)
    if json:
        record: dict[str, Any] = {"device": name, "threads": threads, "sizes": sizes}
        record["engines"] = [asdict(each) for each in results]
        print_json({**record, "largest_error": error} if rival else record)
        return
    out.print(report.race_table(results, threads, compare=False))
    _explain(ours)
    if rival:
        out.print(f"Largest error, relative to the output's scale: {error:.2g}", highlight=False)


def _explain(ours: DeviceResult) -> None:
    err.print(
        escape(
            f"By the device's clock; the way there and back takes {ours.round_trip_ms:.1f} ms more "
            "for each run. What is not said to be on the device ran on this machine."
        ),
        highlight=False,
    )


def _onnxruntime(
    model: Path, inputs: Arrays, outputs: Arrays, threads: int, runs: int, step: Progress
) -> tuple[Result, float]:
    """Its result on this machine, and the largest difference of its outputs from `outputs`."""
    from pocketformer.compiler.bench import Contender, largest_error, onnx_sizes, race

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_arrays(folder / "inputs.npz", inputs)
        write_arrays(folder / "ours.npz", outputs)
        engine = "pocketformer.compiler.engines:Onnxruntime"
        label = "onnxruntime on this machine"
        rival = Contender(label, engine, model, onnx_sizes(model, inputs))
        (result,) = race([rival], folder / "inputs.npz", threads, runs, folder, step)
        return result, largest_error(folder / "ours.npz", folder / f"{label}.npz")
