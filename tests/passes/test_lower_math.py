"""Calls of libm become polynomials, in vectors, and change nothing else."""

import math

import numpy as np
import pytest
import tvm
from elftools.elf.elffile import ELFFile
from tvm import tirx
from tvm.ir import IRModule, assert_structural_equal
from tvm.script import tirx as T

from pocketformer import targets
from pocketformer.passes.lower_math import REPLACEMENTS, LowerMath
from pocketformer.schedules.cpu.intrinsics import TABLE
from tests.schedules.running import stand_in

N = 64
HOST = targets.load("host")
REFERENCE = {"erf": np.vectorize(math.erf), "sigmoid": lambda x: 1 / (1 + np.exp(-x))}


def elementwise(name, dtype="float32"):
    """out = name(x), written like a legalised operator."""
    function = getattr(tirx, name)

    @T.prim_func(s_tir=True)
    def apply(x: T.Buffer((N,), dtype), out: T.Buffer((N,), dtype)):
        T.func_attr({"tirx.noalias": True, "global_symbol": "apply"})
        for i in range(N):
            with T.sblock("apply"):
                v = T.axis.spatial(N, i)
                out[v] = function(x[v])

    return IRModule({"apply": apply})


def run(mod, x):
    out = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(mod, target=HOST.tvm())["apply"](tvm.runtime.tensor(x), out)
    return out.numpy()


@pytest.mark.parametrize("name", [name.rpartition(".")[2] for name in REPLACEMENTS])
def test_the_polynomial_computes_the_function(name):
    x = np.linspace(-8, 8, N, dtype="float32")
    expected = REFERENCE.get(name, getattr(np, name, None))(x.astype("float64"))
    np.testing.assert_allclose(run(LowerMath(HOST)(elementwise(name)), x), expected, rtol=1e-6,
                               atol=1e-7)


@pytest.mark.parametrize("name", [name.rpartition(".")[2] for name in REPLACEMENTS])
def test_no_call_of_libm_is_left_in_the_object(name, tmp_path):
    target = targets.load("arm64-linux")
    called = undefined(LowerMath(target)(elementwise(name)), target, tmp_path)
    assert not {f"{name}f", "expf"} & called


def undefined(mod, target, folder):
    """The names of what the object file of `mod` takes from elsewhere."""
    path = folder / "apply.o"
    tvm.compile(mod, target=target.tvm()).mod.write_to_file(str(path))
    with path.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".symtab")
        return {symbol.name for symbol in symbols.iter_symbols()
                if symbol["st_shndx"] == "SHN_UNDEF"}


ROUNDED = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 4194304.5, 8388607.5, -4194305.5,
                      8388609.0, 1e30, -1e30, np.inf, -np.inf, 0.3])


@pytest.mark.parametrize("isa", TABLE, ids=lambda isa: isa.name)
def test_rounding_is_to_the_nearest_even_on_every_machine(isa):
    x = np.concatenate([ROUNDED, np.random.default_rng().normal(0, 100, N - 16)]).astype("float32")
    lowered = LowerMath(stand_in(isa))(elementwise("nearbyint"))
    np.testing.assert_array_equal(run(lowered, x), np.rint(x))


@pytest.mark.parametrize("name", ["arm64-linux", "armv7-android", "x86_64-linux"])
def test_rounding_needs_no_libm(name, tmp_path):
    target = targets.load(name)
    target = next(iter(target.variants), target)
    assert "nearbyintf" not in undefined(LowerMath(target)(elementwise("nearbyint")), target,
                                         tmp_path)


def test_a_function_of_a_function_is_replaced_inside_and_outside():
    @T.prim_func(s_tir=True)
    def apply(x: T.Buffer((N,), "float32"), out: T.Buffer((N,), "float32")):
        T.func_attr({"global_symbol": "apply"})
        for i in range(N):
            with T.sblock("apply"):
                v = T.axis.spatial(N, i)
                out[v] = T.tanh(T.exp(x[v])) + T.exp(x[v])

    mod = LowerMath(HOST)(IRModule({"apply": apply}))
    assert "T.exp(" not in mod.script()
    assert "T.tanh(" not in mod.script()
    x = np.linspace(-3, 3, N, dtype="float32")
    np.testing.assert_allclose(run(mod, x), np.tanh(np.exp(x)) + np.exp(x), rtol=2e-6)


@pytest.mark.parametrize(("name", "dtype"), [("exp", "float64"), ("exp", "float16"),
                                             ("sqrt", "float32"), ("log", "float32")])
def test_leaves_other_types_and_functions_alone(name, dtype):
    mod = elementwise(name, dtype)
    assert_structural_equal(LowerMath(HOST)(mod), mod)
