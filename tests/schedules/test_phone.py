"""The emulated phones have the instructions that kernels are to be checked on."""

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T

from pocketformer.compiler.device.handshake import info
from tests.device.phones import TOKEN
from tests.schedules import phone


def int8_products(instruction):
    """acc[4] = what `instruction` makes of 16 int8 numbers of `a` and of `b`."""
    intrinsic = f"llvm.aarch64.neon.{instruction}.v4i32.v16i8"

    @T.prim_func(s_tir=True)
    def products(
        a: T.Buffer((16,), "int8"), b: T.Buffer((16,), "int8"), acc: T.Buffer((4,), "int32")
    ):
        T.func_attr({"global_symbol": "products"})
        acc[T.ramp(0, 1, 4)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id(intrinsic), T.broadcast(0, 4),
            a[T.ramp(0, 1, 16)], b[T.ramp(0, 1, 16)], dtype="int32x4")

    return products


@pytest.mark.parametrize(("instruction", "cpu", "expected"), [
    ("sdot", "cortex-a76", lambda a, b: (a * b).reshape(4, 4).sum(1)),
    ("sdot", "max", lambda a, b: (a * b).reshape(4, 4).sum(1)),
    ("smmla", "max", lambda a, b: (a.reshape(2, 8) @ b.reshape(2, 8).T).ravel()),
])
def test_products_of_int8(instruction, cpu, expected):
    a, b = np.random.default_rng().integers(-128, 128, (2, 16), "int8")
    products = phone.movable(int8_products(instruction))
    executable = tvm.compile(products, target=phone.target_of(cpu).tvm())
    assert instruction in executable.mod.inspect_source("asm")
    (result,) = phone.Functions(executable, cpu).call("products", [a, b], [(4,)], "int32")
    np.testing.assert_array_equal(result, expected(a.astype(int), b.astype(int)))


@pytest.mark.parametrize(("cpu", "has", "lacks"), [
    ("cortex-a76", {"neon", "dotprod", "fp16"}, {"i8mm", "bf16"}),
    ("max", {"neon", "dotprod", "fp16", "i8mm", "bf16"}, set()),
])
def test_what_a_phone_tells_of_itself(cpu, has, lacks):
    isa = set(info(phone.address_of(cpu), TOKEN).isa or ())
    assert has <= isa
    assert not lacks & isa
