"""Products of two activations against float64."""

import numpy as np
import pytest

from pocketformer.schedules.workloads import BatchMatmul
from tests.schedules.running import assert_agrees, call, kernels, random

SIZES = [(1, 1, 1, 1), (2, 7, 37, 11), (3, 9, 48, 32), (1, 33, 100, 5), (4, 70, 64, 16)]


@pytest.mark.parametrize("isa", kernels(BatchMatmul(None, None, None, None)))
@pytest.mark.parametrize("transpose_b", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_sizes(isa, transpose_b, symbolic):
    for batch, m, n, k in SIZES if symbolic else SIZES[1:3]:
        known = (None,) * 4 if symbolic else (batch, m, n, k)
        a, b = random(batch, m, k), random(batch, k, n, seed=1)
        given = np.ascontiguousarray(b.transpose(0, 2, 1)) if transpose_b else b
        (result,) = call(BatchMatmul(*known, transpose_b), isa, [a, given], (batch, m, n))
        assert_agrees(result, a.astype("float64") @ b)
