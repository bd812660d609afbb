"""MNN: converts the ONNX file, of any size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bench import onnx_files
from bench.baselines.peer import Peer, Refuses, Sizes, converted, run_converter
from bench.models import BenchModel
from pocketformer.compiler.arrays import Arrays, read_arrays
from pocketformer.compiler.engines import Engine


class MNN(Engine):
    """A module of float32 arithmetic; its integers have 32 bits."""

    def __init__(self) -> None:
        import MNN

        self.library = MNN

    def load(self, path: str, inputs: str, threads: int, sizes: Sizes) -> None:
        nn = self.library.nn
        manager = nn.create_runtime_manager(
            ({"backend": "CPU", "precision": "high", "numThread": threads},)
        )
        # Without names it takes all inputs and outputs; the inputs are ordered by their names here.
        given = read_arrays(Path(inputs))
        self.module = nn.load_module_from_file(path, [*given], [], runtime_manager=manager)
        self.names = self.module.get_info()["outputNames"]
        self.given = [
            array.astype(np.int32) if array.dtype == np.int64 else array
            for array in given.values()
        ]

    def call(self) -> Arrays:
        expr = self.library.expr
        variables = [
            expr.const(array, list(array.shape), expr.NCHW,
                       expr.float if array.dtype == np.float32 else expr.int)
            for array in self.given
        ]
        found = self.module.onForward(variables)
        return {name: value.read() for name, value in zip(self.names, found, strict=True)}


def convert(model: BenchModel, sizes: Sizes, output: Path) -> None:
    """Write an .mnn file. Raises Refuses with what the converter said."""
    done = run_converter(
        [str(Path(sys.executable).with_name("mnnconvert")), "-f", "ONNX", "--bizCode", "bench",
         "--modelFile", str(onnx_files.fixed(model, sizes)), "--MNNModel", str(output)])
    if not output.exists():
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"code {done.returncode}"]
        raise Refuses(lines[-1])


PACKAGES = ("MNN",)
PEERS = (Peer("mnn", "MNN", f"{__name__}:MNN", PACKAGES, converted(__name__, ".mnn", PACKAGES)),)
