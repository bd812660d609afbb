"""The ONNX files of a model: as exported, of fixed sizes, and as onnxruntime's tools leave them.

And what benches of single operators share: a model around them, and onnxruntime on one thread.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from bench.models import BenchModel

EXAMPLE = {"batch": 2, "seq": 12}
LONGEST = {"batch": 64, "seq": 512}
OPSETS = {"": 17, "com.microsoft": 1}
Ends = Mapping[str, tuple[str, Sequence[int | str]]]    # dtypes and shapes by name


def made(output: Path, make: Callable[[Path], object]) -> Path:
    """`output`, which `make` writes unless it is there; a failure leaves nothing behind."""
    return output if output.exists() else made_anew(output, make)


def made_anew(output: Path, make: Callable[[Path], object]) -> Path:
    """`output`, which `make` writes; a failure leaves what was there."""
    part = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        make(part)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return output


def plain(model: BenchModel) -> Path:
    """The file as torch exports it, of any batch and length.

    Plain attention by the older exporter, where that takes the model: of the ways to export BERT it
    is the one that onnxruntime's own fusions know best (of eight that were timed, by 2 to 5 %).
    """
    return made(model.work / "plain.onnx", lambda path: _export(model, path))


def fixed(model: BenchModel, sizes: Mapping[str, int]) -> Path:
    """The file for these sizes alone, its masks and shapes folded, in operators of ONNX itself."""
    return made(model.sized(sizes) / "fixed.onnx", lambda path: _fix(plain(model), sizes, path))


def optimized(model: BenchModel) -> Path:
    """What onnxruntime's optimizer tool makes of the plain file."""
    return made(model.work / "optimized.onnx", lambda path: _optimize(model, path))


def dynamic_int8(model: BenchModel) -> Path:
    """The plain file as onnxruntime's tool quantises it: 8 % faster than its optimized one."""
    return made(model.work / "dynamic-int8.onnx", lambda path: _quantize(plain(model), path))


def _export(model: BenchModel, output: Path) -> None:
    import torch

    tensors = tuple(torch.from_numpy(array) for array in model.arrays(EXAMPLE).values())
    shared: dict[str, Any] = {"input_names": [*model.inputs], "output_names": [model.output]}
    if model.exporter == "dynamo":
        dims = {axis: torch.export.Dim(axis, min=1, max=high) for axis, high in LONGEST.items()}
        axes = [{at: dims[axis] for at, axis in each.items()} for each in model.axes().values()]
        # A module of *tensors takes one tuple of shapes, that of all its inputs.
        shared |= {"dynamo": True, "external_data": False, "verbose": False,
                   "dynamic_shapes": (tuple(axes),)}
    else:
        axes_by_name = {**model.axes(), model.output: {0: "batch"}}
        if model.has_length:
            axes_by_name[model.output][1] = "seq"
        shared |= {"dynamo": False, "opset_version": 17, "dynamic_axes": axes_by_name}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")    # of the older exporter: that it is older, and traces
        logging.disable(logging.WARNING)
        try:
            torch.onnx.export(model.module(), tensors, str(output), **shared)
        finally:
            logging.disable(logging.NOTSET)


def _fix(source: Path, sizes: Mapping[str, int], output: Path) -> None:
    import onnx
    import onnxruntime

    graph = onnx.load(source)
    for item in graph.graph.input:
        for axis in item.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = sizes[axis.dim_param]
    for item in graph.graph.output:
        item.type.tensor_type.ClearField("shape")
    del graph.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(output)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _optimize(model: BenchModel, output: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model.source())
    optimize_model(
        str(plain(model)),
        model_type=model.optimizer,
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    ).save_model_to_file(str(output))


def _quantize(source: Path, output: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)    # it advises to prepare the model, which changes nothing
    try:
        quantize_dynamic(source, output, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.disable(logging.NOTSET)


def around(
    nodes: Sequence[Any], inputs: Ends, outputs: Ends, weights: Mapping[str, np.ndarray]
) -> Any:
    """A ModelProto of `nodes`, of ONNX's operators and of onnxruntime's own."""
    from onnx import helper, numpy_helper

    given, results = (
        [helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
         for name, (dtype, shape) in ends.items()]
        for ends in (inputs, outputs)
    )
    kept = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    domains = sorted({"", *(node.domain for node in nodes)})
    return helper.make_model(
        helper.make_graph(nodes, "operators", given, results, kept), ir_version=9,
        opset_imports=[helper.make_opsetid(domain, OPSETS[domain]) for domain in domains])


def one_thread(model: str | bytes) -> Any:
    """onnxruntime's session for a file or the bytes of one, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
