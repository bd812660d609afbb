"""Bundles of one kernel whose loop threads share."""

from dataclasses import replace
from pathlib import Path

import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.manifest_records import Entry
from pocketformer.compiler.model import TensorSpec
from tests.compiler.tiny import build, tiny_manifest


@I.ir_module
class Parallel:
    @T.prim_func(s_tir=True)
    def double(x: T.Buffer((64, 64), "float32"), y: T.Buffer((64, 64), "float32")):
        T.func_attr({"global_symbol": "double", "tirx.noalias": True})
        for i in T.parallel(64):
            for j in T.serial(64):
                with T.sblock("y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    y[vi, vj] = x[vi, vj] * T.float32(2)

    @R.function
    def main(x: R.Tensor((64, 64), "float32")):
        cls = Parallel
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.call_tir(cls.double, (x,), out_ty=R.Tensor((64, 64), "float32"))
            out = (y,)
            R.output(out)
        return out


@I.ir_module
class Checked:
    @T.prim_func(s_tir=True)
    def careful(x: T.Buffer((64, 64), "float32"), y: T.Buffer((64, 64), "float32")):
        T.func_attr({"global_symbol": "careful", "tirx.noalias": True})
        for i in T.parallel(64):
            for j in T.serial(64):
                with T.sblock("y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    assert x[vi, vj] < T.float32(1), ("ValueError", ["it is too hot"])
                    y[vi, vj] = x[vi, vj] * T.float32(2)

    @R.function
    def main(x: R.Tensor((64, 64), "float32")):
        cls = Checked
        R.func_attr({"num_input": 1})
        with R.dataflow():
            y = R.call_tir(cls.careful, (x,), out_ty=R.Tensor((64, 64), "float32"))
            out = (y,)
            R.output(out)
        return out


def save_parallel(module: tvm.IRModule, folder: Path) -> Path:
    """y = 2 * x for x of 64 x 64 numbers."""
    manifest = replace(
        tiny_manifest(),
        inputs=(TensorSpec("x", (64, 64), "float32"),),
        outputs=(TensorSpec("y", (64, 64), "float32"),),
        dims={},
        entries=(Entry("main", {}, ()),),
    )
    Bundle.create(build(module, folder / "p.so"), {}, manifest).save(folder / "parallel.pf")
    return folder / "parallel.pf"
