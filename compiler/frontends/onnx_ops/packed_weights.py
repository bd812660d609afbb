"""Products with weights of few bits, which have a scale for each block of a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import broadcast
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops.reduction import matmul

LOW, HIGH = -8, 7    # what 4 bits hold
BITS = (4, 8)
LARGEST_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Blocks:
    """Column j of a weight is (whole[j] - zeros[j]) * scales[j], both [n, k / block], repeated.

    `whole` is int16 [n, k], less the middle of its range.
    """

    whole: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    block: int

    def dense(self) -> np.ndarray:
        """The weight [k, n] in float32."""
        k = self.whole.shape[1]
        zeros, scales = (
            np.repeat(array.astype(np.float32), self.block, axis=1)[:, :k]
            for array in (self.zeros, self.scales)
        )
        return np.ascontiguousarray(((self.whole - zeros) * scales).T)

    def without_zeros(self) -> Blocks | None:
        """The same numbers in 4 bits with zeros of nothing but 0, or None."""
        if np.any(self.zeros != np.rint(self.zeros)):
            return None
        whole = self.whole - np.repeat(self.zeros.astype(np.int16), self.block, axis=1)
        if whole.min() < LOW or whole.max() > HIGH:
            return None
        return Blocks(whole, np.zeros_like(self.zeros), self.scales, self.block)


def _matmul_nbits(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    """com.microsoft MatMulNBits(x, weight, scales, zeros?, order?, bias?)."""
    x, weight, scales, zeros, order, bias = ([*inputs, *[None] * 3])[:6]
    if order is not None:
        raise UnsupportedOperator("it changes the order of its blocks")
    blocks = _read(b, node, weight, scales, zeros)
    result = b.emit(_product(b, node, b.tensor(x), blocks, weight))
    return result if bias is None else R.add(*broadcast(b, result, bias))


def _product(
    b: Builder, node: Node, x: relax.Expr, blocks: Blocks, named: np.ndarray
) -> relax.Expr:
    """x @ weight; what zeros other than 0 add is a product with the sums of x over each block."""
    k = blocks.whole.shape[1]
    bits, kind = node.integer("bits", 4), b.dtype(x)
    if bits != BITS[0] or kind != "float32":
        reason = f"{bits} bits in blocks of {blocks.block}, x is {kind}"
        return matmul(b, x, in_floats(b, blocks, named, reason, kind))
    if k % blocks.block:
        return matmul(b, x, in_floats(b, blocks, named, uneven(blocks)))
    exact = blocks.without_zeros()
    result = matmul(b, x, in_blocks(b, exact or blocks, named))
    if exact is not None:
        return result
    shares = np.ascontiguousarray(-(blocks.zeros * blocks.scales).T.astype(np.float32))
    parts = b.emit(R.reshape(x, [*b.shape(x)[:-1], k // blocks.block, blocks.block]))
    sums = b.emit(R.sum(parts, -1))
    return R.add(b.emit(result), b.emit(matmul(b, sums, b.tensor(shares))))


def in_blocks(b: Builder, blocks: Blocks, named: np.ndarray) -> relax.Expr:
    """The weight [k, n] without zeros, from int8 and scales [k / block, n]."""
    n, k = blocks.whole.shape
    few = np.ascontiguousarray(blocks.whole.T.astype(np.int8))
    whole = R.astype(b.tensor(b.weights.name_after(few, named)), "float32")
    scales = b.tensor(np.ascontiguousarray(blocks.scales.T))
    parts = R.reshape(whole, [k // blocks.block, blocks.block, n])
    return b.emit(R.reshape(R.multiply(parts, R.expand_dims(scales, 1)), [k, n]))


def uneven(blocks: Blocks) -> str:
    return f"blocks of {blocks.block} do not divide {blocks.whole.shape[1]} rows"


def in_floats(
    b: Builder, blocks: Blocks, named: np.ndarray, reason: str, dtype: str = "float32"
) -> relax.Expr:
    """The weight [k, n] in `dtype`, for a reason that --explain gives."""
    b.note = f"onnx: the weight becomes {dtype}: {reason}"
    return b.tensor(b.weights.name_after(blocks.dense().astype(dtype), named))


def _read(b: Builder, node: Node, weight: Any, scales: Any, zeros: Any) -> Blocks:
    n, k = node.integer("N"), node.integer("K")
    bits, block = node.integer("bits", 4), node.integer("block_size")
    if bits not in BITS:
        raise UnsupportedOperator(f"its weights have {bits} bits, not 4 or 8")
    if n < 1 or k < 1 or not 8 <= block <= LARGEST_BLOCK:
        raise BadModel(f"its weight is {k} x {n} in blocks of {block}")
    count, middle = -(-k // block), 1 << (bits - 1)
    whole = _unpacked(b.constant(weight, "weight"), bits, n, count * block, "weight")
    given = b.constant(scales, "scales")
    if given.size != n * count:
        raise BadModel(f"it has {given.size} scales for {n} x {count} blocks")
    moved = np.zeros((n, count), np.float32)
    if zeros is not None:
        array = b.constant(zeros, "zero points")
        if array.dtype != np.uint8 and array.size != n * count:
            raise BadModel(f"it has {array.size} zero points for {n} x {count} blocks")
        read = (_unpacked(array, bits, n, count, "zero point") if array.dtype == np.uint8
                else array.reshape(n, count).astype(np.float32))
        moved = read.astype(np.float32) - middle
    return Blocks(
        whole[:, :k].astype(np.int16) - middle, moved,
        given.reshape(n, count).astype(np.float32), block,
    )


def _unpacked(array: np.ndarray, bits: int, rows: int, columns: int, what: str) -> np.ndarray:
    """`rows` of `columns` numbers; with 4 bits a byte has two, the first in its lower half."""
    width = -(-columns * bits // 8)
    if array.dtype != np.uint8 or array.size != rows * width:
        raise BadModel(
            f"its {what} has {array.size} {array.dtype} elements, not {rows * width} of uint8")
    packed = array.reshape(rows, width)
    if bits == 8:
        return packed
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(rows, 2 * width)[:, :columns]


CONVERTERS: dict[str, Converter] = {"com.microsoft.MatMulNBits": _matmul_nbits}
