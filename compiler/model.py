"""Model: the one value that flows from a frontend to a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketformer.compiler.errors import BadDim

if TYPE_CHECKING:
    from tvm.ir import IRModule

LARGEST_SIZE = 2**31 - 1    # TVM's kernels count single axes in 32 bits

Axis = int | str    # a size, or an expression in named dimensions such as "seq" or "2*seq"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, its shape with symbolic axes by name, its numpy dtype name."""

    name: str
    shape: tuple[Axis, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Dim:
    """The sizes that a dimension may take: `low..high`, with `buckets` compiled for specially.

    `high` is None where there is no upper limit. A fixed dimension has `low == high`.
    """

    low: int = 1
    high: int | None = None
    buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.low < 1:
            raise BadDim(f"a dimension is at least 1, not {self.low}")
        if self.high is not None and self.high < self.low:
            raise BadDim(f"the range {self.low}..{self.high} is empty")
        if (largest := max(self.low, self.high or 0)) > LARGEST_SIZE:
            raise BadDim(f"a dimension is at most {LARGEST_SIZE}, not {largest}")

    @property
    def fixed(self) -> int | None:
        """The only size that it may take, or None."""
        return self.low if self.low == self.high else None

    def allows(self, size: int) -> bool:
        return self.low <= size and (self.high is None or size <= self.high)

    def __str__(self) -> str:
        if self.fixed is not None:
            return str(self.fixed)
        if self.buckets:
            return ",".join(map(str, self.buckets))
        return f"{self.low}..{'' if self.high is None else self.high}"

    @classmethod
    def parse(cls, text: str | int | Dim) -> Dim:
        """`128` is fixed, `1..512` (or `1..`) a range, `16,32,64` buckets in a range 1..64."""
        if isinstance(text, Dim):
            return text
        text = str(text).replace(" ", "")
        if re.fullmatch(r"\d+", text):
            return cls(int(text), int(text))
        if found := re.fullmatch(r"(\d+)\.\.(\d*)", text):
            return cls(int(found[1]), int(found[2]) if found[2] else None)
        if re.fullmatch(r"\d+(,\d+)+", text):
            sizes = tuple(sorted({int(size) for size in text.split(",")}))
            if sizes[0] < 1:
                raise BadDim(f"a dimension is at least 1, not {sizes[0]}")
            return cls(1, sizes[-1], sizes)
        raise BadDim(
            f"{text!r} is no dimension; write a size (128), a range (1..512) or buckets (16,32,64)"
        )


def parse_dims(dims: Mapping[str, str | int | Dim] | None) -> dict[str, Dim]:
    """Parse every value of `dims`; its keys are `AXIS` or `INPUT.AXIS`."""
    parsed = {}
    for key, text in (dims or {}).items():
        try:
            parsed[key] = Dim.parse(text)
        except BadDim as error:
            raise BadDim(f"dimension {key!r}: {error}") from None
    return parsed


@dataclass(frozen=True)
class Operator:
    """An operator of the source: its unique node name and its kind, such as MatMul.

    `note` is what --explain is to say of how it was read, if anything.
    """

    name: str
    kind: str
    note: str = ""


@dataclass(frozen=True)
class Model:
    """A model that has been read and not yet compiled.

    `module` has one Relax function `main`, which takes the inputs and then the weights (its
    attribute `num_input` tells where they begin) and returns a tuple of the outputs. A weight's
    parameter has the name of its entry in `weights`, in the same order. `dims` has an entry for
    every symbolic dimension. A binding's variable bears its source operator's name, and its value's
    span the names of all the operators that it stands for.

    `unfixed` is the model before dimensions were fixed, None where none were; `folder` is where its
    files lie, perhaps with a tokenizer.
    """

    name: str
    module: IRModule
    weights: Mapping[str, np.ndarray]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, Dim] = field(default_factory=dict)
    operators: tuple[Operator, ...] = ()
    unfixed: Model | None = field(default=None, repr=False, compare=False)
    folder: Path | None = None

    def with_dims(self, dims: Mapping[str, str | int | Dim] | None) -> Model:
        """The same model with some symbolic dimensions fixed, limited or given buckets.

        Raises BadDim for a name that the model lacks (its own are listed) or for a size that the
        model does not allow.
        """
        from pocketformer.compiler.dims import apply_dims  # needs TVM, which Model does not

        return apply_dims(self, parse_dims(dims))
