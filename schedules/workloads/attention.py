"""Attention of queries to keys and values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pocketformer.schedules.workloads.checks import check_choice, check_sizes, require, stored, text


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
        check_sizes(
            batch=self.batch, q_len=self.q_len, kv_len=self.kv_len, heads=self.heads,
            kv_heads=self.kv_heads, head_size=self.head_size, value_size=self.value_size,
        )
        check_choice("dtype", self.dtype, ("float32", "bfloat16", "int8"))
        check_choice("in_dtype", self.in_dtype, tuple({"float32": 0, self.dtype: 0}))
        check_choice("out_dtype", self.out_dtype, ("float32", "bfloat16", "int8"))
        check_choice("mask_dtype", self.mask_dtype, ("float32", "bool"))
        require(math.isfinite(self.scale), f"scale is {self.scale}")
        require(
            self.heads % self.kv_heads == 0,
            f"{self.heads} heads cannot share {self.kv_heads} of keys evenly",
        )
        require(self.mask is None or len(self.mask) in (3, 4), "a mask has 3 or 4 axes")
        if self.packed:
            same = (self.heads, self.head_size, self.q_len)
            require(
                same == (self.kv_heads, self.value_size, self.kv_len),
                "packed queries, keys and values have the same sizes",
            )

    def __str__(self) -> str:
        sizes = "x".join(map(text, (self.batch, self.q_len, self.kv_len)))
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
        return "_".join([*parts, *stored(self.out_dtype)])
