"""Arguments that begin somewhere in their memory, and views of them, which have to follow."""

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T

from pocketformer.passes.offsets import with_offsets

AROUND = 64     # bytes on both sides of an argument
FILL = 0x55


@T.prim_func(s_tir=True)
def plain(x: T.Buffer((32,), "int32"), y: T.Buffer((32,), "int32")):
    T.func_attr({"global_symbol": "add"})
    for i in range(32):
        y[i] = x[i] + 1


@T.prim_func(s_tir=True)
def wider_view(x: T.Buffer((32,), "int32"), y: T.Buffer((32,), "int32")):
    T.func_attr({"global_symbol": "add"})
    source = T.decl_buffer((16,), "int64", data=x.data)
    for i in range(16):
        y[2 * i] = T.Cast("int32", source[i]) + 1
        y[2 * i + 1] = T.Cast("int32", T.shift_right(source[i], T.int64(32))) + 1


@T.prim_func(s_tir=True)
def narrower_view(x: T.Buffer((32,), "int32"), y: T.Buffer((32,), "int32")):
    """The second half of the result is written as bytes."""
    T.func_attr({"global_symbol": "add"})
    z = T.alloc_buffer((32,), "int32")
    written = T.decl_buffer((64,), "int8", data=y.data, elem_offset=64)
    for i in range(32):
        z[i] = x[i] + 1
    for i in range(16):
        y[i] = z[i]
    for i in range(64):
        written[i] = T.Cast("int8", T.shift_right(z[16 + i // 4], i % 4 * 8))


def placed(array, offset):
    """`array` as a tensor that begins `offset` bytes into its memory, and that memory."""
    memory = np.full(offset + array.nbytes + AROUND, FILL, "uint8")
    memory[offset : offset + array.nbytes] = array.view("uint8")
    tensor = tvm.runtime.tensor(memory)
    return tensor._create_view(array.shape, str(array.dtype), offset), tensor


@pytest.mark.parametrize("func", [plain, wider_view, narrower_view],
                         ids=["plain", "wider_view", "narrower_view"])
@pytest.mark.parametrize("offsets", [(0, 0), (64, 192), (128, 64)], ids=str)
def test_arguments_and_their_views_begin_where_they_lie(func, offsets):
    x = np.random.default_rng().integers(-(1 << 30), 1 << 30, 32, dtype="int32")
    add = tvm.compile(with_offsets(func, (0, 1)), target="llvm")["add"]
    source, _ = placed(x, offsets[0])
    result, memory = placed(np.zeros_like(x), offsets[1])
    add(source, result)
    np.testing.assert_array_equal(result.numpy(), x + 1)
    around = np.delete(memory.numpy(), np.s_[offsets[1] : offsets[1] + x.nbytes])
    assert (around == FILL).all()


def test_an_argument_that_stays_takes_no_offset():
    add = tvm.compile(with_offsets(plain, (0,)), target="llvm")["add"]
    x = np.arange(32, dtype="int32")
    source, _ = placed(x, AROUND)
    result, _ = placed(np.zeros_like(x), 0)
    add(source, result)
    np.testing.assert_array_equal(result.numpy(), x + 1)
    with pytest.raises(ValueError, match="offset"):
        add(source, placed(np.zeros_like(x), AROUND)[0])
