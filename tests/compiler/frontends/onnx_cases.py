"""Tiny ONNX models of single operators: how they are written down, and what they are fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

Size = int | str


@dataclass(frozen=True)
class Input:
    """A graph input; sizes given by name are symbolic. Its numbers lie in low..high."""

    shape: tuple[Size, ...]
    dtype: str = "float32"
    low: float = -2.0
    high: float = 2.0

    def draw(self, sizes: dict[str, int], random: np.random.Generator) -> np.ndarray:
        shape = [sizes[size] if isinstance(size, str) else size for size in self.shape]
        if self.dtype == "bool":
            return random.integers(0, 2, shape).astype(bool)
        if self.dtype.startswith(("int", "uint")):
            return random.integers(int(self.low), int(self.high), shape).astype(self.dtype)
        return random.uniform(self.low, self.high, shape).astype(np.dtype(self.dtype))


def x(*shape: Size, low: float = -2.0, high: float = 2.0) -> Input:
    """A float32 input."""
    return Input(shape, low=low, high=high)


def ints(*shape: Size, low: int = -9, high: int = 10, dtype: str = "int64") -> Input:
    """An integer input of low <= number < high."""
    return Input(shape, dtype, low, high)


def flags(*shape: Size) -> Input:
    return Input(shape, "bool")


def weight(*shape: int) -> np.ndarray:
    """A constant of random numbers, the same ones in every run."""
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


class Case:
    """One node: its operator, its inputs (a graph's Input, a constant, a list of ints or None)."""

    def __init__(
        self, op: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> None:
        self.op, self.inputs, self.outputs = op, inputs, outputs
        self.domain, self.attributes = domain, attributes


def build(cases: Sequence[Case], opset: int = 17) -> tuple[onnx.ModelProto, dict[str, Input]]:
    """A model of independent nodes, one for each case, and its inputs by name."""
    nodes, initializers, inputs, outputs = [], [], {}, []
    for number, case in enumerate(cases):
        names = []
        for place, given in enumerate(case.inputs):
            name = f"{case.op}_{number}_in{place}"
            if given is None:
                name = ""
            elif isinstance(given, Input):
                inputs[name] = given
            else:
                array = np.array(given, np.int64) if isinstance(given, (list, int)) else given
                initializers.append(onnx.numpy_helper.from_array(array, name))
            names.append(name)
        made = [f"{case.op}_{number}_out{place}" for place in range(case.outputs)]
        nodes.append(
            helper.make_node(
                case.op, names, made, f"{case.op}_{number}", domain=case.domain, **case.attributes
            )
        )
        outputs += made
    graph = helper.make_graph(
        nodes,
        "cases",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(given.dtype)), given.shape
            )
            for name, given in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), inputs


def draw(inputs: dict[str, Input], **sizes: int) -> dict[str, np.ndarray]:
    """Fresh random numbers for every input."""
    random = np.random.default_rng()
    return {name: given.draw(sizes, random) for name, given in inputs.items()}


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
