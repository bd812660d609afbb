"""One arena for all that is computed on the way; outputs have memory of their own."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op, transform
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from pocketformer.passes.graph import op_name
from pocketformer.passes.pack_memory import PackMemory
from tests.passes.graphs import module, random, run

x_offset, y_offset = tirx.Var("x_offset", "int64"), tirx.Var("y_offset", "int64")


@I.ir_module
class Before:
    @T.prim_func(private=True, s_tir=True)
    def double(x: T.Buffer((4, 32), "float32"), y: T.Buffer((4, 32), "float32")):
        for i, j in T.grid(4, 32):
            y[i, j] = x[i, j] * T.float32(2)

    @R.function(pure=False)
    def main(x: R.Tensor((4, 32), "float32")) -> R.Tensor((4, 32), "float32"):
        R.func_attr({"num_input": 1})
        cls = Before
        a: R.Tensor((4, 32), "float32") = R.builtin.alloc_tensor(
            R.shape([4, 32]), R.dtype("float32"), 0)
        cls.double(x, a)
        b: R.Tensor((4, 32), "float32") = R.builtin.alloc_tensor(
            R.shape([4, 32]), R.dtype("float32"), 0)
        cls.double(a, b)
        c: R.Tensor((4, 32), "float32") = R.builtin.alloc_tensor(
            R.shape([4, 32]), R.dtype("float32"), 0)
        cls.double(b, c)
        d: R.Tensor((4, 32), "float32") = R.builtin.alloc_tensor(
            R.shape([4, 32]), R.dtype("float32"), 0)
        cls.double(c, d)
        return d


@I.ir_module
class After:
    @T.prim_func(private=True, s_tir=True)
    def double(
        x: T.Buffer((4, 32), "float32", elem_offset=x_offset),
        y: T.Buffer((4, 32), "float32", elem_offset=y_offset),
    ):
        for i, j in T.grid(4, 32):
            y[i, j] = x[i, j] * T.float32(2)

    @R.function(pure=False)
    def main(x: R.Tensor((4, 32), "float32")) -> R.Tensor((4, 32), "float32"):
        R.func_attr({"num_input": 1})
        cls = After
        arena: R.Object = R.memory.alloc_storage(
            R.shape([1024]), 0, "global", "uint8")
        a: R.Tensor((4, 32), "float32") = R.memory.alloc_tensor(
            arena, 0, R.shape([4, 32]), "float32")
        cls.double(x, a)
        b: R.Tensor((4, 32), "float32") = R.memory.alloc_tensor(
            arena, 512, R.shape([4, 32]), "float32")
        cls.double(a, b)
        c: R.Tensor((4, 32), "float32") = R.memory.alloc_tensor(
            arena, 0, R.shape([4, 32]), "float32")
        cls.double(b, c)
        d: R.Tensor((4, 32), "float32") = R.builtin.alloc_tensor(
            R.shape([4, 32]), R.dtype("float32"), 0)
        cls.double(c, d)
        return d


def test_results_take_turns_in_one_arena():
    tvm.ir.assert_structural_equal(PackMemory()(Before), After)


def lowered(before):
    """`before` with a PrimFunc for each operator, which writes into its last argument."""
    with tvm.target.Target({"kind": "llvm"}):
        for step in (
            transform.LegalizeOps(skip_ops=["relax.reshape"]), transform.ToNonDataflow(),
            transform.RemovePurityChecking(), transform.CallTIRRewrite(),
        ):
            before = step(before)
    return before    # fmt: skip


def allocations(mod, name):
    calls = [binding.value for block in mod["main"].body.blocks for binding in block.bindings]
    return [call for call in calls if op_name(call) == name]


def compiled(mod):
    finish = (transform.LowerAllocTensor(), transform.KillAfterLastUse(),
              transform.LowerRuntimeBuiltin(), transform.ComputePrimValue(),
              transform.VMShapeLower(), transform.AttachGlobalSymbol())
    for step in finish:
        mod = step(mod)
    library = relax.build(mod, tvm.target.Target({"kind": "llvm"}), relax_pipeline=None)
    machine = relax.VirtualMachine(library, tvm.cpu())
    return lambda *arrays: machine["main"](*map(tvm.runtime.tensor, arrays))[0].numpy()


def chain(x, w):
    builder = relax.BlockBuilder.current()
    y = builder.emit(op.exp(op.negative(x)))
    wide = builder.emit(op.matmul(op.tanh(y), w))
    return op.add(op.reshape(op.matmul(wide, op.permute_dims(w, [1, 0])), x.ty.shape), y)


@pytest.mark.parametrize("limits", [{}, {"seq": 40}], ids=["unlimited", "limited"])
def test_offsets_and_sizes_may_be_known_at_run_time_only(limits):
    seq = tirx.Var("seq", "int64")
    before = module({"x": (2, seq, 8)}, {"w": (8, 24)}, chain)
    main = before["main"].with_attr("tir_var_upper_bound", limits) if limits else before["main"]
    packed = PackMemory()(lowered(tvm.IRModule({"main": main})))
    (arena,) = allocations(packed, "relax.memory.alloc_storage")
    assert isinstance(arena.args[0].values[0], tirx.IntImm) == bool(limits)
    program = compiled(packed)
    for length in (1, 7, 40):
        arrays = random((2, length, 8), (8, 24))
        np.testing.assert_allclose(program(*arrays), run(before, *arrays)[0], rtol=1e-5, atol=1e-5)


def test_views_keep_their_memory_alive():
    def body(x):
        builder = relax.BlockBuilder.current()
        flat = builder.emit(op.reshape(builder.emit(op.exp(x)), (32,)))
        other = builder.emit(op.sin(builder.emit(op.cos(x))))
        return op.add(flat, op.reshape(other, (32,)))

    before = module({"x": (4, 8)}, {}, body)
    packed = PackMemory()(lowered(before))
    arrays = random((4, 8))
    np.testing.assert_allclose(compiled(packed)(*arrays), run(before, *arrays)[0], atol=1e-6)


def test_leaves_what_foreign_code_touches():
    def body(x):
        own = relax.BlockBuilder.current().emit(op.exp(x))
        far = relax.call_dps_packed("somebody.else", [own], relax.TensorType((4, 8), "float32"))
        return op.tanh(op.exp(relax.BlockBuilder.current().emit(far)))

    packed = PackMemory()(lowered(module({"x": (4, 8)}, {}, body)))
    assert len(allocations(packed, "relax.memory.alloc_tensor")) == 1
    assert len(allocations(packed, "relax.builtin.alloc_tensor")) == 3


def test_a_function_without_intermediate_results_stays_as_it_is():
    before = lowered(module({"x": (4, 8)}, {}, op.exp))
    tvm.ir.assert_structural_equal(PackMemory()(before), before)
