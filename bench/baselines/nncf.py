"""OpenVINO with static INT8 by NNCF: calibrated on the same batches as ours."""

from __future__ import annotations

import itertools
from pathlib import Path

from bench import onnx_files
from bench.baselines.openvino import OpenVINO, core
from bench.baselines.peer import Peer, Sizes, converted
from bench.calibration import COUNT, calibration
from bench.models import BenchModel

PACKAGES = ("openvino", "nncf")
FILE = "model.xml"


class Quantized(OpenVINO):
    """The folder that `convert` writes. Where nothing is quantised it computes in float32."""

    def load(self, path: str, inputs: str, threads: int, sizes: Sizes) -> None:
        super().load(str(Path(path) / FILE), inputs, threads, sizes)


def convert(model: BenchModel, sizes: Sizes, output: Path) -> None:
    """Quantise weights and activations as NNCF does for transformers by default."""
    import nncf
    import openvino

    source = core().read_model(onnx_files.plain(model))
    batches = list(itertools.islice(calibration(model, sizes), COUNT))
    quantized = nncf.quantize(
        source, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
    )
    output.mkdir()
    openvino.save_model(quantized, output / FILE, compress_to_fp16=False)


PEERS = (
    Peer("openvino-int8", "OpenVINO + NNCF int8", f"{__name__}:Quantized", PACKAGES,
         converted(__name__, ".openvino", PACKAGES), "int8"),
)
