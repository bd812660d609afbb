"""Products of two activations, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pocketformer.schedules.workloads.checks import (
    MOST_BYTES,
    check_choice,
    check_sizes,
    require,
    stored,
    text,
)


@dataclass(frozen=True)
class BatchMatmul:
    """a[batch, m, k] @ b[batch, k, n]; with `transpose_b`, b is [batch, n, k]."""

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    transpose_b: bool = False

    def __post_init__(self) -> None:
        check_sizes(batch=self.batch, m=self.m, n=self.n, k=self.k)

    def __str__(self) -> str:
        sizes = "x".join(map(text, (self.batch, self.m, self.n, self.k)))
        return f"batch_matmul_{sizes}" + "_tb" * self.transpose_b


@dataclass(frozen=True)
class QuantizedMatmul:
    """(a[batch, m, k] - a_zero) @ (b[batch, k, n] - b_zero) * scale, of int8 or uint8 numbers.

    They are added up in int32; a k known only at run time is taken for one whose sums fit. The
    result is float32, or quantised again as that of a QuantizedLinear; for an `out_dtype` of int32
    it is the sums as they are. Inputs: a, b, a_zero[1], b_zero[1] (int32), scale[1] (not for
    int32), out_factor[1]?, out_zero[1]? (int32).
    """

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    a_dtype: str = "int8"
    b_dtype: str = "int8"
    out_dtype: str = "float32"

    dtype: ClassVar[str] = "int8"    # of what is multiplied

    def __post_init__(self) -> None:
        check_sizes(batch=self.batch, m=self.m, n=self.n, k=self.k)
        for name in ("a_dtype", "b_dtype"):
            check_choice(name, getattr(self, name), ("int8", "uint8"))
        check_choice("out_dtype", self.out_dtype, ("float32", "int8", "uint8", "int32"))
        fits = self.k is None or self.k <= MOST_BYTES
        require(fits, f"k is {self.k}: int32 holds the sum of {MOST_BYTES} products")

    def __str__(self) -> str:
        sizes = "x".join(map(text, (self.batch, self.m, self.n, self.k)))
        parts = [f"batch_matmul_{sizes}", self.a_dtype]
        parts += [self.b_dtype] * (self.b_dtype != self.a_dtype)
        return "_".join([*parts, *stored(self.out_dtype)])
