"""OpenVINO: reads the ONNX file, in float32 and in bfloat16."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench import onnx_files
from bench.baselines.peer import Peer, Sizes
from bench.models import BenchModel
from pocketformer.compiler.arrays import Arrays, read_arrays
from pocketformer.compiler.engines import Engine


def core() -> Any:
    """OpenVINO, kept from reporting each model over the network, from a fork that may hang."""
    sys.modules["openvino_telemetry"] = None    # type: ignore[assignment]
    import openvino

    return openvino.Core()


class OpenVINO(Engine):
    """A model compiled for the inputs' shapes, in one stream."""

    precision = "f32"

    def __init__(self) -> None:
        self.core = core()

    def load(self, path: str, inputs: str, threads: int, sizes: Sizes) -> None:
        model = self.core.read_model(path)
        given = read_arrays(Path(inputs))
        self.inputs = {each.any_name: given[each.any_name] for each in model.inputs}
        model.reshape({name: list(array.shape) for name, array in self.inputs.items()})
        compiled = self.core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        })
        self.request = compiled.create_infer_request()
        self.names = [each.any_name for each in compiled.outputs]

    def call(self) -> Arrays:
        found = self.request.infer(self.inputs, share_inputs=True, share_outputs=True)
        return dict(zip(self.names, found.values(), strict=True))


class OpenVINOBFloat16(OpenVINO):
    precision = "bf16"


def _file(model: BenchModel, sizes: Sizes) -> Path:
    return onnx_files.plain(model)


PEERS = (
    Peer("openvino", "OpenVINO", f"{__name__}:OpenVINO", ("openvino",), _file),
    Peer("openvino-bf16", "OpenVINO bf16", f"{__name__}:OpenVINOBFloat16", ("openvino",), _file,
         "bfloat16"),
)
