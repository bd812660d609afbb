"""onnxruntime: the ONNX file as it is, and as its own optimizer tool for transformers leaves it."""

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


PEERS = (
    Peer("onnxruntime", "onnxruntime", ENGINE, PACKAGES, _plain),
    Peer("onnxruntime-tool", "onnxruntime, optimizer tool", ENGINE, PACKAGES, _optimized),
)
