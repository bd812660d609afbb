"""Small Relax functions for the tests of passes, and what they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule, SourceName, Span

Shape = Sequence[object]


def module(
    inputs: dict[str, Shape], weights: dict[str, Shape], body: Callable[..., relax.Expr]
) -> IRModule:
    """A module as a frontend makes it: `body` of all parameters, every call with its source."""
    params = {
        name: relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in {**inputs, **weights}.items()
    }
    builder = relax.BlockBuilder()
    attrs = {"num_input": len(inputs)}
    with builder.function("main", list(params.values()), attrs=attrs):
        with builder.dataflow():
            out = body(*params.values())
            fields = out if isinstance(out, (list, tuple)) else [out]
            result = builder.emit_output(relax.Tuple([builder.emit(field) for field in fields]))
        builder.emit_func_output(result)
    return with_sources(relax.transform.CanonicalizeBindings()(builder.get()))


def with_sources(mod: IRModule) -> IRModule:
    """Every call marked with the name of its variable, as frontends do."""
    func = mod["main"]
    bindings = []
    for binding in func.body.blocks[0].bindings:
        value = binding.value
        if isinstance(value, relax.Call):
            span = Span(SourceName(binding.var.name), 0, 0, 0, 0)
            value = relax.Call(value.op, value.args, value.attrs, value.ty_args, span)
            value = relax.BlockBuilder().normalize(value)
        bindings.append(relax.VarBinding(binding.var, value))
    seq = relax.SeqExpr([relax.DataflowBlock(bindings)], func.body.body)
    body = relax.BlockBuilder().normalize(seq)
    return IRModule({"main": relax.Function(func.params, body, func.ret_ty, True, func.attrs)})


def composites(mod: IRModule) -> list[tuple[str, dict[str, object]]]:
    """The fused operators that main calls, in order, with their options."""
    from pocketformer.passes.composite import composite_of, options_of

    found = []
    for binding in mod["main"].body.blocks[0].bindings:
        if fused := composite_of(mod, binding.value):
            found.append((fused[0], options_of(fused[1])))
    return found


def run(mod: IRModule, *arrays: np.ndarray) -> list[np.ndarray]:
    """The outputs of main on `arrays`, by TVM's own unscheduled code."""
    target = tvm.target.Target({"kind": "llvm"})
    with target:
        mod = relax.transform.InlinePrivateFunctions()(mod)
        mod = relax.get_pipeline("zero")(mod)
    program = tvm.compile(mod, target)
    machine = relax.VirtualMachine(program, tvm.cpu())
    return [out.numpy() for out in machine["main"](*map(tvm.runtime.tensor, arrays))]


def random(*shapes: Shape) -> list[np.ndarray]:
    """Fresh random arrays of these shapes."""
    rng = np.random.default_rng()
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]
