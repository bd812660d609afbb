"""A bundle of a tiny model, made without the frontends and the pipeline."""

import re
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer import targets
from pocketformer.compiler.link import Linker
from pocketformer.compiler.machine import this_machine
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import Entry, OperatorRecord, TargetRecord
from pocketformer.compiler.model import Dim, TensorSpec
from pocketformer.compiler.pool import pool_objects


# hidden = x @ w + c + shift; the entry for seq=4 doubles it, so that a test sees which one ran.
# `same` is an input, handed back.
@I.ir_module
class Tiny:
    @R.function
    def main(
        x: R.Tensor(("batch", "seq", 8), "float32"),
        shift: R.Tensor(("batch", "seq"), "float32"),
        w: R.Tensor((8, 16), "float32"),
        c: R.Tensor((16,), "float32"),
    ):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            hidden = R.add(R.add(R.matmul(x, w), c), R.expand_dims(shift, [2]))
            out = (hidden, x)
            R.output(out)
        return out

    @R.function
    def main_seq_4(
        x: R.Tensor(("batch", 4, 8), "float32"),
        shift: R.Tensor(("batch", 4), "float32"),
        c: R.Tensor((16,), "float32"),
        w: R.Tensor((8, 16), "float32"),
    ):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            hidden = R.add(R.add(R.matmul(x, w), c), R.expand_dims(shift, [2]))
            out = (R.add(hidden, hidden), x)
            R.output(out)
        return out


def tiny_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    w = random.standard_normal((8, 16), dtype=np.float32)
    return {"w": w, "c": random.standard_normal(16, dtype=np.float32)}


def expected(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    weights = tiny_weights()
    return x @ weights["w"] + weights["c"] + shift[..., None]


def inputs(batch: int = 1, seq: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "x": random.standard_normal((batch, seq, 8), dtype=np.float32),
        "shift": random.standard_normal((batch, seq), dtype=np.float32),
    }


def tiny_manifest(embedded: bool = False) -> Manifest:
    here = this_machine()
    return Manifest(
        name="tiny",
        target=TargetRecord(name="host", arch=here.arch, os=here.os),
        recipe="float32",
        inputs=(
            TensorSpec("x", ("batch", "seq", 8), "float32"),
            TensorSpec("shift", ("batch", "seq"), "float32"),
        ),
        outputs=(
            TensorSpec("hidden", ("batch", "seq", 16), "float32"),
            TensorSpec("same", ("batch", "seq", 8), "float32"),
        ),
        dims={"batch": Dim(), "seq": Dim(1, 4096, (4,))},
        entries=(
            Entry("main", {}, () if embedded else ("w", "c")),
            Entry("main_seq_4", {"seq": 4}, () if embedded else ("c", "w")),
        ),
        operators=(OperatorRecord("MatMul_0", "MatMul", "matmul", ""),),
    )


def build(module: tvm.IRModule, path: Path) -> Path:
    here = targets.load("host")
    linker = Linker(here, also=pool_objects(here))
    executable = relax.build(module, tvm.target.Target({"kind": "llvm"}))
    executable.export_library(str(path), fcompile=linker)
    return path


def one_sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message of `error`, which must be a single sentence on a single line."""
    text = str(error.value)
    assert text
    assert "\n" not in text
    assert not re.search(r"\. [A-Z]", text)
    return text
