"""onnxruntime: the ONNX file as it is, as its optimizer tool leaves it, and in dynamic INT8."""

from __future__ import annotations

from pathlib import Path

from bench import onnx_files
from bench.baselines.peer import Peer, Refuses, Sizes
from bench.models import BenchModel

ENGINE = "pocketformer.compiler.engines:Onnxruntime"
PACKAGES = ("onnxruntime",)


def _plain(model: BenchModel, sizes: Sizes) -> Path:
    return onnx_files.plain(model)


def _optimized(model: BenchModel, sizes: Sizes) -> Path:
    if not model.optimizer:
        raise Refuses("its optimizer tool knows no such model")
    return onnx_files.optimized(model)


def _dynamic(model: BenchModel, sizes: Sizes) -> Path:
    return onnx_files.dynamic_int8(model)


PEERS = (
    Peer("onnxruntime", "onnxruntime", ENGINE, PACKAGES, _plain),
    Peer("onnxruntime-tool", "onnxruntime, optimizer tool", ENGINE, PACKAGES, _optimized),
    Peer("onnxruntime-int8", "onnxruntime dynamic int8", ENGINE, PACKAGES, _dynamic,
         "int8-dynamic"),
)
