"""ncnn: pnnx converts the traced PyTorch module, of fixed sizes and for one example of a batch.

pnnx has no converter for the arithmetic of masks, so that a model's mask is left out; it is all
ones here, and what ncnn does not do with it counts in its favour.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.baselines.peer import Peer, Refuses, Sizes, converted, run_converter
from bench.models import BenchModel
from pocketformer.compiler.arrays import Arrays, read_arrays
from pocketformer.compiler.engines import Engine

MASK = "attention_mask"
ENDINGS = (".ncnn.param", ".ncnn.bin")
DTYPES = {"int64": "int32", "float32": "float32"}       # of a tensor: what ncnn takes for it
TYPES = {"torch.int64": "i64", "torch.float32": "f32"}  # and what pnnx calls it


class NCNN(Engine):
    """A net of float32; it runs the examples of a batch one after the other."""

    def __init__(self) -> None:
        import ncnn

        self.library = ncnn

    def load(self, path: str, inputs: str, threads: int, sizes: Sizes) -> None:
        self.net = self.library.Net()
        options = self.net.opt
        options.num_threads = threads
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        for load, ending in zip((self.net.load_param, self.net.load_model), ENDINGS, strict=True):
            if load(str(Path(path) / f"model{ending}")):
                raise Refuses("ncnn cannot load what pnnx made of the model")
        given = [array for name, array in read_arrays(Path(inputs)).items() if name != MASK]
        self.examples = [
            [np.ascontiguousarray(array[at].astype(DTYPES[array.dtype.name])) for array in given]
            for at in range(len(given[0]))
        ]

    def call(self) -> Arrays:
        return {"output": np.stack([self._one(example) for example in self.examples])}

    def _one(self, example: list[np.ndarray]) -> np.ndarray:
        extractor = self.net.create_extractor()
        for number, array in enumerate(example):
            extractor.input(f"in{number}", self.library.Mat(array))
        code, found = extractor.extract("out0")
        if code:
            raise Refuses(f"ncnn cannot run what pnnx made of the model: code {code}")
        return np.array(found)


def convert(model: BenchModel, sizes: Sizes, output: Path) -> None:
    """Write a folder of pnnx's files. Raises Refuses with what it cannot convert."""
    import torch

    arrays = model.arrays({**sizes, "batch": 1})
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name != MASK}
    shapes = [f"{[*each.shape]}{TYPES[str(each.dtype)]}".replace(" ", "")
              for each in tensors.values()]
    output.mkdir()
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        traced = Path(name) / "model.pt"
        torch.jit.trace(model.module(names=tuple(tensors)), tuple(tensors.values()),
                        check_trace=False).save(traced)
        done = run_converter(
            [str(Path(sys.executable).with_name("pnnx")), traced.name,
             f"inputshape={','.join(shapes)}", "fp16=0"], cwd=name)
        ends = [traced.with_name(f"model{ending}") for ending in ENDINGS]
        if not all(end.exists() for end in ends):
            lines = (done.stderr + done.stdout).strip().splitlines() or [f"code {done.returncode}"]
            raise Refuses(lines[-1])
        if unknown := _unknown(ends[0]):
            raise Refuses(f"pnnx leaves operators that ncnn lacks: {', '.join(unknown)}")
        for end in ends:
            end.replace(output / end.name)


def _unknown(param: Path) -> list[str]:
    """The operators that pnnx left as those of PyTorch, by their names."""
    kinds = {line.split()[0] for line in param.read_text().splitlines()[2:] if line.strip()}
    return sorted(kind for kind in kinds if "." in kind)


PACKAGES = ("ncnn", "pnnx")
PEERS = (Peer("ncnn", "ncnn", f"{__name__}:NCNN", PACKAGES, converted(__name__, "", PACKAGES)),)
