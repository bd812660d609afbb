"""What goes over rows: norms, softmax, lookups."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pocketformer.schedules.workloads.checks import check_choice, check_sizes, require, text


@dataclass(frozen=True)
class Norm:
    """Layer or RMS normalisation of x[rows, size] (plus residual), times weight (plus bias).

    The result y is also, or with `keep` false only, written in few bits as `store` says: bfloat16;
    int8, clip(round(y * factor) + zero); or "rows": y * factor in int8 by the range of each row, as
    quantize_rows does. Inputs: x, residual?, weight[size], bias[size]?, factor[size]? (for int8 and
    rows), zero[1]? (int32, for int8). Outputs: y?, stored?, scale[rows]?, zero[rows]? (int32; both
    for rows), and with `keep_sum` x + residual.
    """

    rows: int | None
    size: int
    kind: str
    eps: float
    residual: bool = False
    keep_sum: bool = False
    bias: bool = False
    store: str = ""
    keep: bool = True

    def __post_init__(self) -> None:
        check_sizes(rows=self.rows, size=self.size)
        check_choice("kind", self.kind, ("layer", "rms"))
        check_choice("store", self.store, ("", "bfloat16", "int8", "rows"))
        require(self.keep or bool(self.store), "a norm that is not kept has to be stored")
        require(math.isfinite(self.eps), f"eps is {self.eps}")
        require(self.residual or not self.keep_sum, "a sum that is kept needs a residual")

    def __str__(self) -> str:
        parts = ["residual"] * self.residual + ["sum"] * self.keep_sum + ["bias"] * self.bias
        parts += [f"to_{self.store}"] * bool(self.store) + ["only"] * (not self.keep)
        return "_".join([f"{self.kind}norm_{text(self.rows)}x{self.size}", *parts])


@dataclass(frozen=True)
class Softmax:
    """softmax over the last axis of x[rows, size]."""

    rows: int | None
    size: int | None

    def __post_init__(self) -> None:
        check_sizes(rows=self.rows, size=self.size)

    def __str__(self) -> str:
        return f"softmax_{text(self.rows)}x{text(self.size)}"


@dataclass(frozen=True)
class Lookup:
    """table[ids[rows]] * scale: rows of a table of `count` x `size` short numbers, in float32.

    Numbers have `bits` 8 or 4 and lie two to the byte with 4, the first of a pair in the lower
    half, offset by 8. scale is [count, size / group]. Inputs: ids[rows] (int64 or int32), table,
    scale. An id from -count to -1 counts from the end; one outside is the nearest row's.
    """

    rows: int | None
    size: int
    count: int
    bits: int
    group: int
    ids_dtype: str = "int64"

    def __post_init__(self) -> None:
        check_sizes(rows=self.rows, size=self.size, count=self.count, group=self.group)
        check_choice("bits", self.bits, (4, 8))
        check_choice("ids_dtype", self.ids_dtype, ("int64", "int32"))
        require(self.size % self.group == 0, f"group {self.group} does not divide {self.size}")
        require(self.bits == 8 or self.group % 2 == 0, f"a group of {self.group} is odd")

    def __str__(self) -> str:
        sizes = f"{text(self.rows)}x{self.size}of{self.count}"
        return f"lookup_{sizes}_w{self.bits}g{self.group}" + "_i32" * (self.ids_dtype == "int32")
