"""Compiles a model with TVM's own default pipeline and compares it with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import tvm
from tvm import relax

from pocketformer.compiler.frontends.onnx import load_onnx
from pocketformer.compiler.model import Model, parse_dims
from tests.numerics.tolerance import TOLERANCE

Arrays = Mapping[str, np.ndarray]


def agrees_with_onnxruntime(
    proto: onnx.ModelProto | str, *runs: Arrays, dims: Mapping[str, str | int] | None = None
) -> Model:
    """Import `proto` once, run it on the inputs of each run, and compare every output."""
    model = load_onnx(proto, parse_dims(dims))
    compiled = compile_plainly(model)
    for inputs in runs:
        assert_close(compiled(inputs), reference(proto, inputs))
    return model


class Compiled:
    """A model in TVM's virtual machine, called with the model's inputs by name."""

    def __init__(self, model: Model) -> None:
        target = tvm.target.Target({"kind": "llvm"})
        with target:
            library = tvm.compile(model.module, target=target, relax_pipeline=_plain_pipeline())
        self._machine = relax.VirtualMachine(library, tvm.cpu())
        self._weights = [tvm.runtime.tensor(array) for array in model.weights.values()]
        self._names = [spec.name for spec in model.inputs]

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        given = [tvm.runtime.tensor(np.ascontiguousarray(inputs[name])) for name in self._names]
        return [result.numpy() for result in self._machine["main"](*given, *self._weights)]


def _plain_pipeline() -> tvm.ir.transform.Pass:
    """TVM's default without RewriteDataflowReshape, which fails on axes such as `n + 3`."""
    return tvm.transform.Sequential([
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ])


def compile_plainly(model: Model) -> Compiled:
    return Compiled(model)


def reference(proto: onnx.ModelProto | str, inputs: Arrays) -> list[np.ndarray]:
    """onnxruntime's outputs, computed without its optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = proto if isinstance(proto, str) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def assert_close(results: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> None:
    """Same number, shape, dtype and, within the table's tolerance, the same numbers.

    A reference of nothing but zeros is refused: anything that returns zeros would agree with it.
    """
    assert len(results) == len(references)
    for index, (result, expected) in enumerate(zip(results, references, strict=True)):
        assert result.shape == expected.shape, f"output {index}"
        assert result.dtype == expected.dtype, f"output {index}"
        assert expected.size == 0 or np.any(expected), f"output {index} is zero everywhere"
        if str(expected.dtype) not in TOLERANCE:
            np.testing.assert_array_equal(result, expected, err_msg=f"output {index}")
            continue
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(result[~finite], expected[~finite])
        scale = np.abs(expected[finite].astype(np.float64)).max(initial=0.0)
        apart = np.abs(result[finite].astype(np.float64) - expected[finite])
        error = apart.max(initial=0.0) / max(scale, 1e-30)
        limit = TOLERANCE[str(expected.dtype)]
        assert error <= limit, f"output {index} is off by {error:.2e} of its scale"
