"""Linear layers: products with weights, and what follows them in the same kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pocketformer.schedules.workloads.checks import (
    ACTIVATIONS,
    MOST_PRODUCTS,
    check_choice,
    check_sizes,
    require,
    stored,
    text,
)


@dataclass(frozen=True)
class Linear:
    """activation(x[m, k] @ weight[k, n] + bias[n]) + residual[m, n].

    `dtype` is the weight's; x is rounded to it before they are multiplied, or comes as it where
    `x_dtype` is bfloat16. The result is rounded to `out_dtype`: bfloat16, or int8, then
    round(result * out_factor[n]) + out_zero, ties to even, with the nearest number for what lies
    outside. All else is float32. Inputs: x, weight, bias?, residual?, out_factor[n]?, out_zero[1]?
    (int32).
    """

    m: int | None
    n: int
    k: int
    bias: bool = False
    activation: str = ""
    residual: bool = False
    dtype: str = "float32"
    x_dtype: str = "float32"
    out_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_sizes(m=self.m, n=self.n, k=self.k)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("dtype", self.dtype, ("float32", "bfloat16", "float16"))
        check_choice("x_dtype", self.x_dtype, tuple({"float32": 0, self.dtype: 0}))
        require(self.x_dtype != "float16", "x_dtype is float16, which no kernel takes")
        check_choice("out_dtype", self.out_dtype, ("float32", "bfloat16", "int8"))

    def __str__(self) -> str:
        parts = [self.dtype] * (self.dtype != "float32")
        parts += ["stored"] * (self.x_dtype != "float32")
        parts += ["bias"] * self.bias + [self.activation] * bool(self.activation)
        parts += ["residual"] * self.residual + stored(self.out_dtype)
        return "_".join([f"linear_{text(self.m)}x{self.n}x{self.k}", *parts])


@dataclass(frozen=True)
class QuantizedLinear:
    """activation((x[m, k] - x_zero) @ weight[k, n] * x_scale * weight_scale[n] + bias) + residual.

    x (`x_dtype` int8 or uint8) and weight (int8) are multiplied and added up in int32; bias[n] and
    residual[m, n] are float32. x_scale, and with `zero` also x_zero (int32), are [1], or with
    `per_row` [m]. Where `x_dtype` is float32, the kernel quantises each row of x by its own range,
    as quantize_rows does (see passes/rounding.py): x_scale and x_zero are no inputs then.

    The result is float32 or bfloat16, or where `out_dtype` is int8 or uint8 quantised again:
    round(result * out_factor[n]) + out_zero, ties to even, with the nearest number for what lies
    outside; or, for an `out_dtype` of int32, the sums (x - x_zero) @ weight as they are, which wrap
    around. All others must fit: k is at most MOST_PRODUCTS. Inputs: x, weight, weight_scale,
    weight_sum[n] (int32: the sum of each column), x_scale, x_zero?, bias?, residual?,
    out_factor[n]?, out_zero[1]? (int32).
    """

    m: int | None
    n: int
    k: int
    x_dtype: str = "int8"
    per_row: bool = False
    zero: bool = False
    bias: bool = False
    activation: str = ""
    residual: bool = False
    out_dtype: str = "float32"

    dtype: ClassVar[str] = "int8"    # of the weight

    def __post_init__(self) -> None:
        check_sizes(m=self.m, n=self.n, k=self.k)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("x_dtype", self.x_dtype, ("int8", "uint8", "float32"))
        check_choice(
            "out_dtype", self.out_dtype, ("float32", "bfloat16", "int8", "uint8", "int32"))
        more = self.bias or bool(self.activation) or self.residual
        require(self.out_dtype != "int32" or not more, "sums of int32 are as they are")
        fits = self.out_dtype == "int32" or self.k <= MOST_PRODUCTS
        require(fits, f"k is {self.k}: int32 holds the sum of {MOST_PRODUCTS} products")

    @property
    def in_float32(self) -> Linear:
        """The layer that it stands for."""
        return Linear(self.m, self.n, self.k, self.bias, self.activation, self.residual)

    def __str__(self) -> str:
        parts = [f"linear_{text(self.m)}x{self.n}x{self.k}", self.x_dtype]
        parts += ["rows"] * self.per_row + ["zero"] * self.zero + ["bias"] * self.bias
        parts += [self.activation] * bool(self.activation) + ["residual"] * self.residual
        return "_".join(parts + stored(self.out_dtype))


@dataclass(frozen=True)
class WeightOnlyLinear:
    """activation(x[m, k] @ (weight[k, n] * scale) + bias[n]) + residual[m, n], for small weights.

    With 8 `bits`, weight is int8 and scale[1, n]: one for every column. With 4, weight is int8 from
    -8 to 7, and scale[k / group, n]: one for `group` rows of a column. x, scale, bias, residual and
    out are float32. With `round_x`, x is rounded to multiples of its largest magnitude / 127, over
    each row, or with 4 bits over each group of a row, so that products are of whole numbers.
    """

    m: int | None
    n: int
    k: int
    bits: int
    group: int | None = None
    round_x: bool = False
    bias: bool = False
    activation: str = ""
    residual: bool = False

    def __post_init__(self) -> None:
        check_sizes(m=self.m, n=self.n, k=self.k, group=self.group)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("bits", self.bits, (4, 8))
        require((self.group is not None) == (self.bits == 4), "4 bits have a group, 8 have none")
        if self.group is not None:
            require(
                self.group % 8 == 0 and self.k % self.group == 0,
                f"group is {self.group}, not a multiple of 8 that divides k ({self.k})",
            )

    def __str__(self) -> str:
        sizes = f"{text(self.m)}x{self.n}x{self.k}"
        weights = f"w{self.bits}" + (f"g{self.group}" if self.group else "")
        parts = ["rounded"] * self.round_x + ["bias"] * self.bias
        parts += [self.activation] * bool(self.activation) + ["residual"] * self.residual
        return "_".join([f"linear_{sizes}", weights, *parts])

    @property
    def groups(self) -> int:
        """How many scales a column has."""
        return self.k // self.group if self.group else 1
