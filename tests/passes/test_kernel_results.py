"""Kernels with several results, from the fused operator to the memory that they lie in."""

from functools import partial

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.ir import IRModule
from tvm.relax import op

from pocketformer import targets
from pocketformer.compiler import pipeline
from pocketformer.compiler.folding import Folding
from pocketformer.compiler.kernel_calls import KernelCalls
from pocketformer.passes.composite import Composites
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.fused_operators import lookup, norm
from pocketformer.passes.graph import op_name
from pocketformer.passes.lower_composites import LowerComposites
from tests.passes.graphs import module, random, run

BATCH, SEQ, SIZE = 2, 5, 48
HOST = next(iter(targets.load("host").variants), targets.load("host"))


def stored_norm(seq, store, keep):
    """What is computed from a layer norm of two sums, kept and stored as options say."""
    options = {"kind": "layer", "eps": 1e-5, "residual": 1, "store": store, "keep": keep}
    shape = (BATCH, seq, SIZE)
    composites = Composites(IRModule())

    def body(x, r, gamma, beta, factor):
        emit = relax.BlockBuilder.current().emit
        args = [emit(op.nn.relu(x)), gamma, beta, r]
        args += [factor] * (store != "bfloat16")
        args += [relax.const(np.array([3], "int32"))] * (store == "int8")
        call = emit(composites.call("norm", args, partial(norm, **options), options, None))
        several = isinstance(call.ty, relax.TupleType)
        results = [emit(call[i]) for i in range(len(call.ty.fields))] if several else [call]
        y = results.pop(0) if keep else None
        back = emit(op.astype(results[0], "float32"))
        if store == "rows":
            back = emit(op.multiply(op.subtract(back, op.astype(results[2], "float32")),
                                    results[1]))
        outs = [op.negative(back), op.tanh(back)]
        return outs if y is None else [*outs, y, op.add(y, back)]

    weights = {name: (SIZE,) for name in ("gamma", "beta", "factor")}
    made = module({"x": shape, "r": shape}, weights, body)
    entries = dict(entry_functions(made))
    (gvar,) = entries
    whole = composites.module({})
    return IRModule({**whole.functions, gvar: entries[gvar]})


def compiled(before, weights, watch=None, inputs=2):
    """`before` for this machine, as `compile` makes it, and its module before machine code."""
    seen = {}

    def follow(step, mod):
        seen[step] = mod
        if watch:
            watch(step, mod)

    picked = pipeline.run(before, pipeline.kernels(HOST), HOST)
    folding = Folding(weights)
    mod = pipeline.run(folding.module(picked), pipeline.finish(HOST), HOST, follow)
    library = relax.build(mod, HOST.tvm(), relax_pipeline=None)
    machine = relax.VirtualMachine(library, tvm.cpu())
    names = [str(param.name) for param in seen["pack_memory"]["main"].params[inputs:]]
    given = [tvm.runtime.tensor(folding.kept[name]) for name in names]
    return (
        lambda *arrays: [out.numpy() for out in machine["main"](
            *map(tvm.runtime.tensor, arrays), *given)],
        seen["pack_memory"],
    )


def arrays_of():
    x, r, gamma, beta, factor = random(*[(BATCH, SEQ, SIZE)] * 2, *[(SIZE,)] * 3)
    # No result is 16 or more, where half a step of bfloat16 is more than APART.
    return [x, r, np.clip(gamma, -2, 2), np.clip(beta, -2, 2), 20 + np.abs(factor)]


# At most, and on average: integers are one off where a number lies next to the middle of two.
# What is added to them is rounded once more. TVM leaves out what rounds to bfloat16 and back.
APART = {"int8": (1.001, 0.02), "rows": (5.0, 0.1), "bfloat16": (0.06, 0.006)}


@pytest.mark.parametrize("length", [SEQ, None], ids=["static", "symbolic"])
@pytest.mark.parametrize(("store", "keep"), [
    ("int8", True), ("int8", False), ("rows", True), ("rows", False), ("bfloat16", True)])
def test_a_norm_that_is_stored_short_is_one_kernel(store, keep, length):
    before = stored_norm(length or tirx.Var("seq", "int64"), store, keep)
    arrays = arrays_of()
    program, after = compiled(before, dict(zip(("gamma", "beta", "factor"), arrays[2:],
                                               strict=True)))
    expected = run(before, *arrays)
    for result, wanted in zip(program(*arrays[:2]), expected, strict=True):
        assert np.abs(wanted).max() > 0.5
        most, mean = APART[store]
        assert np.abs(result - wanted).max() <= most
        assert np.abs(result - wanted).mean() <= mean
    norms = [gvar for gvar in after.functions if "norm" in gvar.name_hint]
    assert len(norms) == 1


@pytest.mark.parametrize("store", ["int8", "rows"])
def test_results_that_stay_inside_lie_in_the_arena(store):
    arrays = arrays_of()
    before = stored_norm(SEQ, store, True)
    _, after = compiled(before, dict(zip(("gamma", "beta", "factor"), arrays[2:], strict=True)))
    calls = [binding.value for block in after["main"].body.blocks for binding in block.bindings]
    own = [call for call in calls if op_name(call) == "relax.builtin.alloc_tensor"]
    inside = [call for call in calls if op_name(call) == "relax.memory.alloc_tensor"]
    assert len(own) == len(before["main"].ret_ty.fields)
    assert {str(call.ty.dtype.dtype) for call in own} == {"float32"}
    assert "int8" in {str(call.ty.dtype.dtype) for call in inside}


def test_what_a_kernel_with_several_results_costs():
    calls = KernelCalls()
    arrays = arrays_of()
    compiled(stored_norm(SEQ, "rows", True),
             dict(zip(("gamma", "beta", "factor"), arrays[2:], strict=True)), calls.watch)
    record = next(record for record in calls.records(()) if record.kind == "layernorm")
    numbers, rows = BATCH * SEQ * SIZE, BATCH * SEQ
    assert record.operations == 8 * numbers
    assert record.bytes == 4 * (3 * numbers + 3 * SIZE) + numbers + 8 * rows


@pytest.mark.parametrize("length", [SEQ, None], ids=["static", "symbolic"])
@pytest.mark.parametrize(("bits", "group"), [(8, SIZE), (4, 16)])
def test_a_lookup_of_short_numbers_is_one_kernel(bits, group, length):
    count = 20
    rng = np.random.default_rng()
    width, kind = (SIZE, "int8") if bits == 8 else (SIZE // 2, "uint8")
    table = rng.integers(*((-128, 128) if bits == 8 else (0, 256)), (count, width)).astype(kind)
    scale = rng.uniform(0.5, 2.0, (count, SIZE // group)).astype("float32")
    before = looked_up(length or tirx.Var("seq", "int64"), table, scale, bits, group)
    ids = rng.integers(-count, count, (BATCH, SEQ))
    calls = KernelCalls()
    program, after = compiled(before, {}, calls.watch, inputs=1)
    (result,), (expected,) = program(ids), run(LowerComposites()(before), ids)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert sum("lookup" in gvar.name_hint for gvar in after.functions) == 1
    if length:
        record = next(record for record in calls.records(()) if record.kind == "lookup")
        numbers = BATCH * SEQ * (8 + width + 4 * SIZE // group + 4 * SIZE)
        assert record.bytes == numbers


def looked_up(seq, table, scale, bits, group):
    """exp of what is looked up, a hundredth of it."""
    options = {"bits": bits, "group": group, "size": SIZE}
    composites = Composites(IRModule())
    ids = relax.Var("ids", relax.TensorType((BATCH, seq), "int64"))
    builder = relax.BlockBuilder()
    with builder.function("main", [ids], attrs={"num_input": 1}):
        with builder.dataflow():
            args = [ids, relax.const(table), relax.const(scale)]
            rows = builder.emit(
                composites.call("lookup", args, partial(lookup, **options), options, None))
            out = builder.emit(op.exp(op.multiply(rows, relax.const(0.01, "float32"))))
            result = builder.emit_output(relax.Tuple([out]))
        builder.emit_func_output(result)
    entries = dict(entry_functions(builder.get()))
    return IRModule({**composites.module({}).functions, **entries})
