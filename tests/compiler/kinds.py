"""A bundle whose inputs and outputs are of many kinds of numbers."""

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.manifest_records import Entry
from pocketformer.compiler.model import Dim, TensorSpec
from tests.compiler.tiny import build, tiny_manifest


@I.ir_module
class Kinds:
    @R.function
    def main(
        b: R.Tensor((2,), "bfloat16"),
        h: R.Tensor(("n",), "float16"),
        i: R.Tensor((), "int64"),
        m: R.Tensor(("2*n+1",), "bool"),
        w: R.Tensor((2,), "bfloat16"),
    ):
        R.func_attr({"num_input": 4})
        with R.dataflow():
            out = (
                R.add(R.astype(b, "float32"), R.astype(w, "float32")),
                R.reshape(b, (2, 1)),
                R.add(h, h),
                R.add(i, i),
                R.logical_not(m),
            )
            R.output(out)
        return out


def save_kinds(folder: Path) -> Path:
    """The bundle, saved in `folder`."""
    library = build(Kinds, folder / "kinds.so")
    manifest = replace(
        tiny_manifest(),
        inputs=(
            TensorSpec("b", (2,), "bfloat16"),
            TensorSpec("h", ("n",), "float16"),
            TensorSpec("i", (), "int64"),
            TensorSpec("m", ("2*n + 1",), "bool"),
        ),
        outputs=(
            TensorSpec("bw", (2,), "float32"),
            TensorSpec("b2", (2, 1), "bfloat16"),
            TensorSpec("h2", ("n",), "float16"),
            TensorSpec("i2", (), "int64"),
            TensorSpec("m2", ("2*n + 1",), "bool"),
        ),
        dims={"n": Dim(1, 9)},
        entries=(Entry("main", {}, ("w",)),),
    )
    saved = folder / "kinds.pf"
    Bundle.create(library, {"w": np.array([1, 2], ml_dtypes.bfloat16)}, manifest).save(saved)
    return saved


def of_kinds(n: int = 3, mask: int = 7) -> dict[str, np.ndarray]:
    return {
        "b": np.array([0.5, -4], ml_dtypes.bfloat16),
        "h": np.arange(n, dtype=np.float16),
        "i": np.array(7),
        "m": np.arange(mask) % 2 == 0,
    }
