"""A result takes over an argument's memory where it is computed from it place by place."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import backend, op, transform
from tvm.script import ir as I
from tvm.script import tirx as T

from pocketformer import targets
from pocketformer.compiler.folding import Folding
from pocketformer.compiler.pipeline import finish, kernels, shared
from pocketformer.compiler.pipeline import run as run_steps
from pocketformer.compiler.recipe import Float32
from pocketformer.passes.graph import op_name
from pocketformer.passes.pack_memory import IN_PLACE
from pocketformer.passes.pick_in_place import PickInPlace
from tests.passes.graphs import module, random, run


@I.ir_module
class Before:
    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((4, 8), "float32"), row: T.Buffer((8,), "float32"),
        turned: T.Buffer((8, 4), "float32"), y: T.Buffer((4, 8), "float32"),
        z: T.Buffer((4, 8), "float32"),
    ):
        total = T.sblock_alloc_buffer((4, 8))
        for i, j in T.grid(4, 8):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                total[vi, vj] = x[vi, vj] + row[vj]
        for i, j in T.grid(4, 8):
            with T.sblock("multiply"):
                vi, vj = T.axis.remap("SS", [i, j])
                z[vi, vj] = total[vi, vj] * turned[vj, vi] + y[3 - vi, vj]


def test_marks_what_is_read_where_the_result_is_written():
    after = PickInPlace()(Before)
    tvm.ir.assert_structural_equal(after["main"], Before["main"].with_attr(IN_PLACE, [0]))


@I.ir_module
class TwoResults:
    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((8,), "float32"), a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")
    ):
        for i in range(8):
            with T.sblock("b"):
                vi = T.axis.remap("S", [i])
                b[vi] = x[vi] * T.float32(2)
        for i in range(8):
            with T.sblock("a"):
                vi = T.axis.remap("S", [i])
                a[vi] = x[vi] + T.float32(1)


def test_leaves_a_function_with_two_results():
    tvm.ir.assert_structural_equal(PickInPlace()(TwoResults), TwoResults)


@I.ir_module
class ReadLater:
    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32"), z: T.Buffer((8,), "float32")
    ):
        for i in range(8):
            with T.sblock("double"):
                vi = T.axis.remap("S", [i])
                z[vi] = x[vi] * T.float32(2)
        for i in range(8):
            with T.sblock("add"):
                vi = T.axis.remap("S", [i])
                z[vi] = z[vi] + y[vi]


def test_leaves_what_is_read_after_the_result_was_written():
    after = PickInPlace()(ReadLater)
    tvm.ir.assert_structural_equal(after["main"], ReadLater["main"].with_attr(IN_PLACE, [0]))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.permute_dims(op.exp(x), [1, 0]),
        lambda x: op.max(x, axis=[1]),
        lambda x: op.cumsum(x, axis=1),
    ],
    ids=["turned", "reduced", "added up"],
)
def test_leaves_what_is_read_elsewhere(body):
    mod = module({"x": (6, 6)}, {}, body)
    steps = (backend.DispatchSortScan(), transform.LegalizeOps(),
             transform.AnnotateTIROpPattern(), transform.FuseOps(),
             transform.FuseTIR())
    with tvm.target.Target({"kind": "llvm"}):
        for step in steps:
            mod = step(mod)
    after = PickInPlace()(mod)
    assert any(isinstance(func, tirx.PrimFunc) for func in after.functions.values())
    assert not any(IN_PLACE in func.attrs for func in after.functions.values())


def compiled(before, weights):
    """A program of `before` by our pipeline, and the bytes of its arena."""
    host = targets.load("host")
    arena = []

    def watch(step, mod):
        if step == "pack_memory":
            for binding in mod["main"].body.blocks[0].bindings:
                if op_name(binding.value) == "relax.memory.alloc_storage":
                    arena.append(int(binding.value.args[0].values[0]))

    folding = Folding(weights)
    mod = folding.module(run_steps(before, [*shared(Float32()), *kernels(host)], host))
    names = [str(param.name) for param in mod["main"].params[1:]]
    library = relax.build(run_steps(mod, finish(host), host, watch), host.tvm(), None)
    machine = relax.VirtualMachine(library, tvm.cpu())
    fixed = [tvm.runtime.tensor(folding.kept[name]) for name in names]
    return lambda x: machine["main"](tvm.runtime.tensor(x), *fixed)[0].numpy(), arena


@pytest.mark.parametrize(("rows", "width"), [(1, 33), (19, 70), (67, 130)])
def test_a_linear_adds_to_its_residual_where_it_lies(rows, width):
    """Rows and columns that fill no tile; the same memory is read and written."""
    deep = 600

    def body(x, w1, w2, gate):
        residual = relax.BlockBuilder.current().emit(op.exp(x))
        wide = op.nn.relu(op.matmul(residual, w1))
        total = op.add(op.matmul(wide, w2), residual)
        return op.matmul(op.multiply(op.tanh(total), op.sigmoid(total)), gate)

    shapes = {"w1": (width, deep), "w2": (deep, width), "gate": (width, 8)}
    before = module({"x": (rows, width)}, shapes, body)
    x, *weights = (each / 20 for each in random((rows, width), *shapes.values()))
    program, arena = compiled(before, dict(zip(shapes, weights, strict=True)))
    expected = run(before, x, *weights)[0]
    np.testing.assert_allclose(program(x), expected, atol=1e-5 * np.abs(expected).max())
    assert arena == [sum(-(-4 * rows * size // 64) * 64 for size in (width, deep))]
