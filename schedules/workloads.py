"""Workloads: what a kernel computes. How it is computed is the business of the templates in cpu/.

A size of None is known only at run time. `str` of a workload is short, stable and usable in names.
What cannot be computed is a BadWorkload, since workloads are also read from files of records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pocketformer.compiler.errors import BadWorkload

MOST = (1 << 31) - 1     # of a size: the product of two of them is an index of 64 bits
# Products of 8-bit integers whose sum int32 holds: |x - zero| is at most 255, |weight| 128.
MOST_PRODUCTS = MOST // (255 * 128)
MOST_BYTES = MOST // (255 * 255)    # where |weight - zero| is as much
ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "quick_gelu")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadWorkload(otherwise)


def _check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        _require(size is None or 1 <= size <= MOST, f"{name} is {size}, not 1 to {MOST}")


def _check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    _require(value in choices, f"{name} is {value!r}, not one of {choices!r}")


def _text(size: int | None) -> str:
    return "any" if size is None else str(size)


def _stored(dtype: str) -> list[str]:
    """What a workload's text says of the dtype of its result."""
    return [f"to_{dtype}"] * (dtype != "float32")


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
        _check_sizes(m=self.m, n=self.n, k=self.k)
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("dtype", self.dtype, ("float32", "bfloat16", "float16"))
        _check_choice("x_dtype", self.x_dtype, tuple({"float32": 0, self.dtype: 0}))
        _require(self.x_dtype != "float16", "x_dtype is float16, which no kernel takes")
        _check_choice("out_dtype", self.out_dtype, ("float32", "bfloat16", "int8"))

    def __str__(self) -> str:
        parts = [self.dtype] * (self.dtype != "float32")
        parts += ["stored"] * (self.x_dtype != "float32")
        parts += ["bias"] * self.bias + [self.activation] * bool(self.activation)
        parts += ["residual"] * self.residual + _stored(self.out_dtype)
        return "_".join([f"linear_{_text(self.m)}x{self.n}x{self.k}", *parts])


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
        _check_sizes(m=self.m, n=self.n, k=self.k)
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("x_dtype", self.x_dtype, ("int8", "uint8", "float32"))
        _check_choice(
            "out_dtype", self.out_dtype, ("float32", "bfloat16", "int8", "uint8", "int32"))
        more = self.bias or bool(self.activation) or self.residual
        _require(self.out_dtype != "int32" or not more, "sums of int32 are as they are")
        fits = self.out_dtype == "int32" or self.k <= MOST_PRODUCTS
        _require(fits, f"k is {self.k}: int32 holds the sum of {MOST_PRODUCTS} products")

    @property
    def in_float32(self) -> Linear:
        """The layer that it stands for."""
        return Linear(self.m, self.n, self.k, self.bias, self.activation, self.residual)

    def __str__(self) -> str:
        parts = [f"linear_{_text(self.m)}x{self.n}x{self.k}", self.x_dtype]
        parts += ["rows"] * self.per_row + ["zero"] * self.zero + ["bias"] * self.bias
        parts += [self.activation] * bool(self.activation) + ["residual"] * self.residual
        return "_".join(parts + _stored(self.out_dtype))


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
        _check_sizes(m=self.m, n=self.n, k=self.k, group=self.group)
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("bits", self.bits, (4, 8))
        _require((self.group is not None) == (self.bits == 4), "4 bits have a group, 8 have none")
        if self.group is not None:
            _require(
                self.group % 8 == 0 and self.k % self.group == 0,
                f"group is {self.group}, not a multiple of 8 that divides k ({self.k})",
            )

    def __str__(self) -> str:
        sizes = f"{_text(self.m)}x{self.n}x{self.k}"
        weights = f"w{self.bits}" + (f"g{self.group}" if self.group else "")
        parts = ["rounded"] * self.round_x + ["bias"] * self.bias
        parts += [self.activation] * bool(self.activation) + ["residual"] * self.residual
        return "_".join([f"linear_{sizes}", weights, *parts])

    @property
    def groups(self) -> int:
        """How many scales a column has."""
        return self.k // self.group if self.group else 1


@dataclass(frozen=True)
class Attention:
    """softmax(q @ k.T * scale + mask) @ v for every batch and head.

    q [batch, q_len, heads, head_size], k [batch, kv_len, kv_heads, head_size],
    v [batch, kv_len, kv_heads, value_size]; out [batch, q_len, heads, value_size]. Query head h
    reads key head h // (heads // kv_heads). With `packed`, the one input in place of q, k and v is
    qkv [batch, q_len, 3, heads, head_size], which is read where it lies.

    `mask` tells for the axes batch, head, query (and key, full where not given) of the mask whether
    they are full-size (True) or 1; None is no mask. A mask is added (mask_dtype "float32") or keeps
    the keys where it is true ("bool"). `causal` hides key j from query i where
    j > i + kv_len - q_len.

    A query whose keys are all hidden by -inf, by a boolean mask or by `causal` gives zeros (a plain
    softmax would give NaN); by a finite value such as the lowest float32, the mean of all values,
    as with a plain softmax, also of those that `causal` hides.

    With a `dtype` of bfloat16, a kernel may round queries (times scale), keys, weights and values
    to it before they are multiplied; where `in_dtype` is bfloat16, they come as it. With int8,
    products of queries, keys and values in int8 are added up in int32, and a kernel rounds weights
    to 255 or more steps of the greatest. Where they come as int8, scores are those times scales[0],
    in place of `scale` (which is 1), and results those times scales[1]; where they come as float32,
    a kernel may round them by ranges that it finds: those of each query of a head, of the keys of a
    head and of its values. The result is rounded to `out_dtype`, as that of a Linear: out_factor is
    [heads * value_size]. All else is float32. Inputs: q, k, v (or qkv), mask?, scales[2]? (of
    int8), out_factor?, out_zero[1]? (int32).

    Ranges leave out keys, with their values, that have no weight: those that a mask without axes of
    heads and queries hides by false, by -inf or by 5e8 less than its greatest number, which scores
    do not make up for (-1e9 hides, -1e4 does not). All other keys count: under a mask of each query
    or head, and, as a query may see no others, under one of numbers together with `causal`.
    """

    batch: int | None
    q_len: int | None
    kv_len: int | None
    heads: int
    kv_heads: int
    head_size: int
    value_size: int
    scale: float
    mask: tuple[bool, ...] | None = None
    mask_dtype: str = "float32"
    causal: bool = False
    packed: bool = False
    dtype: str = "float32"
    in_dtype: str = "float32"
    out_dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_sizes(
            batch=self.batch, q_len=self.q_len, kv_len=self.kv_len, heads=self.heads,
            kv_heads=self.kv_heads, head_size=self.head_size, value_size=self.value_size,
        )
        _check_choice("dtype", self.dtype, ("float32", "bfloat16", "int8"))
        _check_choice("in_dtype", self.in_dtype, tuple({"float32": 0, self.dtype: 0}))
        _check_choice("out_dtype", self.out_dtype, ("float32", "bfloat16", "int8"))
        _check_choice("mask_dtype", self.mask_dtype, ("float32", "bool"))
        _require(math.isfinite(self.scale), f"scale is {self.scale}")
        _require(
            self.heads % self.kv_heads == 0,
            f"{self.heads} heads cannot share {self.kv_heads} of keys evenly",
        )
        _require(self.mask is None or len(self.mask) in (3, 4), "a mask has 3 or 4 axes")
        if self.packed:
            same = (self.heads, self.head_size, self.q_len)
            _require(
                same == (self.kv_heads, self.value_size, self.kv_len),
                "packed queries, keys and values have the same sizes",
            )

    def __str__(self) -> str:
        sizes = "x".join(map(_text, (self.batch, self.q_len, self.kv_len)))
        heads = str(self.heads) if self.heads == self.kv_heads else f"{self.heads}of{self.kv_heads}"
        size = str(self.head_size)
        if self.value_size != self.head_size:
            size += f"v{self.value_size}"
        flags = (*(self.mask or (True,) * 3), True)[:4]
        axes = "".join(name for name, full in zip("bhqk", flags, strict=True) if full)
        parts = [f"attention_{sizes}_{heads}x{size}"]
        parts += [self.dtype] * (self.dtype != "float32")
        parts += ["stored"] * (self.in_dtype == "bfloat16")
        parts += ["rounded"] * (self.dtype == "int8" and self.in_dtype == "float32")
        if self.mask is not None:
            parts.append(("mask" if self.mask_dtype == "float32" else "keep") + axes)
        parts += ["causal"] * self.causal + ["packed"] * self.packed
        return "_".join([*parts, *_stored(self.out_dtype)])


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
        _check_sizes(rows=self.rows, size=self.size)
        _check_choice("kind", self.kind, ("layer", "rms"))
        _check_choice("store", self.store, ("", "bfloat16", "int8", "rows"))
        _require(self.keep or bool(self.store), "a norm that is not kept has to be stored")
        _require(math.isfinite(self.eps), f"eps is {self.eps}")
        _require(self.residual or not self.keep_sum, "a sum that is kept needs a residual")

    def __str__(self) -> str:
        parts = ["residual"] * self.residual + ["sum"] * self.keep_sum + ["bias"] * self.bias
        parts += [f"to_{self.store}"] * bool(self.store) + ["only"] * (not self.keep)
        return "_".join([f"{self.kind}norm_{_text(self.rows)}x{self.size}", *parts])


@dataclass(frozen=True)
class Softmax:
    """softmax over the last axis of x[rows, size]."""

    rows: int | None
    size: int | None

    def __post_init__(self) -> None:
        _check_sizes(rows=self.rows, size=self.size)

    def __str__(self) -> str:
        return f"softmax_{_text(self.rows)}x{_text(self.size)}"


@dataclass(frozen=True)
class BatchMatmul:
    """a[batch, m, k] @ b[batch, k, n]; with `transpose_b`, b is [batch, n, k]."""

    batch: int | None
    m: int | None
    n: int | None
    k: int | None
    transpose_b: bool = False

    def __post_init__(self) -> None:
        _check_sizes(batch=self.batch, m=self.m, n=self.n, k=self.k)

    def __str__(self) -> str:
        sizes = "x".join(map(_text, (self.batch, self.m, self.n, self.k)))
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
        _check_sizes(batch=self.batch, m=self.m, n=self.n, k=self.k)
        for name in ("a_dtype", "b_dtype"):
            _check_choice(name, getattr(self, name), ("int8", "uint8"))
        _check_choice("out_dtype", self.out_dtype, ("float32", "int8", "uint8", "int32"))
        fits = self.k is None or self.k <= MOST_BYTES
        _require(fits, f"k is {self.k}: int32 holds the sum of {MOST_BYTES} products")

    def __str__(self) -> str:
        sizes = "x".join(map(_text, (self.batch, self.m, self.n, self.k)))
        parts = [f"batch_matmul_{sizes}", self.a_dtype]
        parts += [self.b_dtype] * (self.b_dtype != self.a_dtype)
        return "_".join([*parts, *_stored(self.out_dtype)])


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
        _check_sizes(rows=self.rows, size=self.size, count=self.count, group=self.group)
        _check_choice("bits", self.bits, (4, 8))
        _check_choice("ids_dtype", self.ids_dtype, ("int64", "int32"))
        _require(self.size % self.group == 0, f"group {self.group} does not divide {self.size}")
        _require(self.bits == 8 or self.group % 2 == 0, f"a group of {self.group} is odd")

    def __str__(self) -> str:
        sizes = f"{_text(self.rows)}x{self.size}of{self.count}"
        return f"lookup_{sizes}_w{self.bits}g{self.group}" + "_i32" * (self.ids_dtype == "int32")


@dataclass(frozen=True)
class Function:
    """A function that the compiler made of operators without a template: it is its own definition.

    `key` is the sha256 of its text before any schedule (see replay.key_of) and tells it from all
    others; `name` is for people, without numbers. `text` is its code where that is known, as TVM's
    JSON: it never comes from a file.
    """

    name: str = field(compare=False)
    key: str
    text: str = field(default="", compare=False, repr=False, metadata={"local": True})

    def __post_init__(self) -> None:
        _require(re.fullmatch(r"[0-9a-f]{64}", self.key) is not None, "the key is no sha256")
        _require(re.fullmatch(r"\w{1,500}", self.name) is not None, "the name is no identifier")

    def __str__(self) -> str:
        return f"{self.name}_{self.key[:12]}"


Workload = (
    Linear | QuantizedLinear | WeightOnlyLinear | Attention | Norm | Softmax | BatchMatmul
    | QuantizedMatmul | Lookup | Function
)
