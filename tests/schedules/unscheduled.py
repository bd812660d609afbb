"""Functions of operators that no template computes, before they have a schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.ir import IRModule
from tvm.relax import op, transform

from pocketformer import targets
from pocketformer.schedules.cpu.elementwise import unscheduled
from pocketformer.schedules.cpu.replay import key_of
from pocketformer.schedules.cpu.trace import function_of
from pocketformer.schedules.workloads import Function

HOST = targets.load("host")


def lowered(shapes: Any, body: Any, symbolic: bool) -> IRModule:
    """The PrimFuncs of `body`, fused; with `symbolic`, the first axis has any size."""
    first = tirx.Var("n", "int64")
    params = [
        relax.Var(f"x{i}", relax.TensorType(
            [first if symbolic and axis == 0 and size == shapes[0][0] else size
             for axis, size in enumerate(shape)], "float32"))
        for i, shape in enumerate(shapes)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(builder.normalize(body(*params)))
        builder.emit_func_output(out)
    mod = builder.get()
    with HOST.tvm():
        for step in (transform.LegalizeOps(), transform.AnnotateTIROpPattern(),
                     transform.FuseOps(), transform.FuseTIR()):
            mod = step(mod)
    return mod


def run(mod: IRModule, arrays: list[np.ndarray]) -> np.ndarray:
    """What the only entry of `mod` computes here."""
    library = tvm.compile(mod, target=HOST.tvm())
    result = relax.VirtualMachine(library, tvm.cpu())["main"](*map(tvm.runtime.tensor, arrays))
    return result.numpy()


def function(case: str) -> Function:
    """The workload of the one function of a case of known sizes."""
    mod = lowered(*CASES[case], symbolic=False)
    ((gvar, func),) = (item for item in mod.functions.items() if unscheduled(item[1]))
    return function_of(gvar.name_hint, func, key_of(func))


def rotary(x: Any, cos: Any, sin: Any) -> Any:
    """Each number of a head's first half with one of its second half, turned by an angle."""
    half = int(x.ty.shape[-1]) // 2
    first = op.strided_slice(x, [3], [0], [half], assume_inbound=True)
    second = op.strided_slice(x, [3], [half], [2 * half], assume_inbound=True)
    turned = op.concat([op.negative(second), first], axis=-1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


CASES: dict[str, tuple[Any, Any]] = {
    "chain": ([(6, 40), (40,)], lambda x, y: op.multiply(op.exp(op.add(x, y)), op.tanh(x))),
    "chain_of_odd_length": ([(7, 13)], lambda x: op.sqrt(op.add(op.multiply(x, x), op.exp(x)))),
    "one_axis": ([(5000,)], lambda x: op.add(op.exp(x), x)),
    "scalar": ([(6, 1), (1, 1)], op.add),
    "short_last_axis": ([(50, 8, 3)], lambda x: op.add(op.multiply(x, x), x)),
    "transpose": ([(6, 33, 64)], lambda x: op.permute_dims(op.add(x, x), [0, 2, 1])),
    "wide_transpose": ([(2, 32, 48)], lambda x: op.permute_dims(x, [0, 2, 1])),
    "channels_first": ([(2, 8, 12, 32)], lambda x: op.permute_dims(op.nn.silu(x), [0, 3, 1, 2])),
    "rotary": ([(2, 8, 4, 32), (8, 1, 32), (8, 1, 32)], rotary),
    "swiglu": ([(6, 48), (6, 48)], lambda x, y: op.multiply(op.nn.silu(x), y)),
    "concat": ([(6, 5), (6, 9)], lambda x, y: op.concat([x, y], axis=1)),
    "mean_of_rows": ([(6, 96)], lambda x: op.mean(op.exp(x), axis=-1)),
    "mean_of_odd_rows": ([(6, 37)], lambda x: op.mean(x, axis=-1, keepdims=True)),
    "sum_of_one_vector": ([(6, 4)], lambda x: op.sum(x, axis=-1)),
    "sum_of_columns": ([(6, 20, 64)], lambda x: op.sum(x, axis=1)),
    "max_of_columns": ([(6, 20, 37)], lambda x: op.max(x, axis=1)),
    "sum_of_all": ([(6, 20)], op.sum),
    "argmax": ([(6, 50)], lambda x: op.argmax(x, axis=-1)),
    "softmax": ([(6, 50)], lambda x: op.nn.softmax(x, axis=-1)),
    "matmul": ([(6, 20), (20, 128)], op.matmul),
    "matmul_of_odd_width": ([(6, 20), (20, 35)], lambda x, w: op.nn.relu(op.matmul(x, w))),
    "matmul_with_bias": (
        [(6, 20), (20, 48), (48,)], lambda x, w, b: op.tanh(op.add(op.matmul(x, w), b))),
    "batched_matmul": ([(6, 3, 8), (6, 8, 16)], op.matmul),
    "conv": ([(2, 3, 9, 9), (4, 3, 3, 3)], lambda x, w: op.nn.relu(
        op.nn.conv2d(x, w, padding=(1, 1)))),
    "wide_conv": ([(1, 3, 32, 32), (8, 3, 3, 3), (1, 8, 1, 1)], lambda x, w, b: op.nn.silu(
        op.add(op.nn.conv2d(x, w, padding=(1, 1)), b))),
    "strided_conv": ([(1, 3, 32, 32), (8, 3, 3, 3)], lambda x, w: op.nn.conv2d(
        x, w, strides=(2, 2), padding=(1, 1))),
    "depthwise_conv": ([(1, 8, 16, 16), (8, 1, 3, 3)], lambda x, w: op.nn.conv2d(
        x, w, padding=(1, 1), groups=8)),
    "patches": ([(1, 3, 32, 32), (16, 3, 16, 16)], lambda x, w: op.nn.conv2d(
        x, w, strides=(16, 16))),
    "wide_matmul": ([(8, 20), (20, 128)], lambda x, w: op.nn.relu(op.matmul(x, w))),
    "pool": ([(2, 3, 8, 8)], lambda x: op.nn.max_pool2d(x, pool_size=(2, 2), strides=(2, 2))),
}
