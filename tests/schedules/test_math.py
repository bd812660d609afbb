"""Polynomials in place of libm: their greatest errors against float64, and values at the ends."""

import math
from functools import partial

import numpy as np
import pytest
import tvm

from pocketformer import targets
from pocketformer.schedules.cpu import activations, short_math
from pocketformer.schedules.cpu import math as kernels
from pocketformer.schedules.cpu.kernel import load, loop, prim_func, store
from tests.schedules import phone

LANES = 16
INF, NAN, GREATEST = np.inf, np.nan, 3.4028234663852886e38
erf = np.vectorize(math.erf)
EXACT = {
    "exp": np.exp,
    "exp_nonpositive": np.exp,
    "exp2": np.exp2,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": erf,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (
        1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


@pytest.fixture(params=["here", *phone.CPUS])
def apply(request):
    """apply(name, x): the function on an array of whole vectors, computed on a machine."""
    return partial(compute, request.param)


def compute(machine, name, x, module=None):
    module = module or (kernels if hasattr(kernels, name) else activations)
    with prim_func("apply") as function:
        source, result = function.argument("x", x.shape), function.argument("y", x.shape)
        with loop(x.size // LANES) as i:
            vector = load(source, i * LANES, lanes=LANES)
            store(result, getattr(module, name)(vector), i * LANES)
    if machine in phone.CPUS:
        func = phone.movable(function.func)
        executable = tvm.compile(func, target=phone.target_of(machine).tvm())
        (result,) = phone.Functions(executable, machine).call("apply", [x], [x.shape])
        return result
    out = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(function.func, target=targets.load("host").tvm())["apply"](
        tvm.runtime.tensor(x), out)
    return out.numpy()


def grid(low, high):
    """Even steps over the range, and fine ones around 0."""
    small = np.logspace(-30, 0, 1 << 12)
    return np.concatenate([np.linspace(low, high, 1 << 16), small, -small]).astype("float32")


@pytest.mark.parametrize(("name", "low", "high", "limit"), [
    ("exp", -86.6, 88.7, 1e-7),
    ("exp_nonpositive", -86.6, 0.0, 4e-7),
    ("exp2", -125.0, 127.9, 1e-7),
    ("sigmoid", -86.0, 100.0, 2e-7),
    ("erf", -20.0, 20.0, 4e-7),
    ("tanh", -20.0, 20.0, 4e-7),
])
def test_relative_error(apply, name, low, high, limit):
    x = grid(low, high)
    exact = EXACT[name](x.astype("float64"))
    assert np.abs(apply(name, x) / exact - 1).max() <= limit


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_absolute_error(apply, name):
    x = grid(-1e5, 1e5)
    assert np.abs(apply(name, x) - EXACT[name](x.astype("float64"))).max() <= 1e-7


@pytest.mark.parametrize(("name", "limit"), [
    ("gelu", 3e-7), ("gelu_tanh", 2e-7), ("silu", 2e-7), ("quick_gelu", 2e-7),
])
def test_error_relative_to_the_argument(apply, name, limit):
    x = grid(-80.0, 80.0)
    error = np.abs(apply(name, x) - EXACT[name](x.astype("float64")))
    assert (error / np.abs(x)).max() <= limit


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_error_of_the_short_ones(apply, name):
    x = grid(-80.0, 80.0)
    error = np.abs(apply(name, x, module=short_math) - EXACT[name](x.astype("float64")))
    assert (error / np.abs(x)).max() <= 2.3e-4


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_the_short_ones_at_the_ends(apply, name):
    x = np.zeros(LANES, "float32")
    x[:8] = [NAN, INF, -INF, 0, 50, -50, GREATEST, -GREATEST]
    expected = np.float32([NAN, INF, 0, 0, 50, 0, GREATEST, 0])
    np.testing.assert_array_equal(apply(name, x, module=short_math)[:8], expected)


@pytest.mark.parametrize(("name", "x", "expected"), [
    ("exp", [NAN, INF, -INF, 0, GREATEST, -GREATEST, -104, 89], [NAN, INF, 0, 1, INF, 0, 0, INF]),
    ("exp_nonpositive", [NAN, -INF, 0, -GREATEST, -104], [NAN, 0, 1, 0, 0]),
    ("exp2", [NAN, INF, -INF, 0, GREATEST, -GREATEST, -150, 128], [NAN, INF, 0, 1, INF, 0, 0, INF]),
    ("sigmoid", [NAN, INF, -INF, 0, GREATEST, -GREATEST], [NAN, 1, 0, 0.5, 1, 0]),
    ("erf", [NAN, INF, -INF, 0, GREATEST, -GREATEST, 4, -4], [NAN, 1, -1, 0, 1, -1, 1, -1]),
    ("tanh", [NAN, INF, -INF, 0, GREATEST, -GREATEST, 10, -10], [NAN, 1, -1, 0, 1, -1, 1, -1]),
    ("sin", [NAN, INF, -INF, 0], [NAN, NAN, NAN, 0]),
    ("cos", [NAN, INF, -INF, 0], [NAN, NAN, NAN, 1]),
    ("relu", [NAN, INF, -INF, 0, 3, -3], [NAN, INF, 0, 0, 3, 0]),
    ("gelu", [NAN, INF, -GREATEST, 0, 50, -50], [NAN, INF, 0, 0, 50, 0]),
    ("gelu_tanh", [NAN, INF, -GREATEST, 0, 50, -50], [NAN, INF, 0, 0, 50, 0]),
    ("silu", [NAN, INF, -GREATEST, 0, 200, -200], [NAN, INF, 0, 0, 200, 0]),
    ("quick_gelu", [NAN, INF, -GREATEST, 0, 200, -200], [NAN, INF, 0, 0, 200, 0]),
])
def test_at_the_ends(apply, name, x, expected):
    array = np.zeros(LANES, "float32")
    array[: len(x)] = x
    np.testing.assert_array_equal(apply(name, array)[: len(x)], np.float32(expected))


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_a_huge_angle_gives_a_number_within_one(apply, name):
    x = np.linspace(1e6, GREATEST, 1 << 10).astype("float32")
    assert np.abs(apply(name, np.concatenate([x, -x]))).max() <= 1.0
