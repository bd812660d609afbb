"""Products of two activations against float64."""

import numpy as np
import pytest

from pocketformer import targets
from pocketformer.schedules.cpu.batch_matmul import TiledBatchMatmul
from pocketformer.schedules.workloads import BatchMatmul
from tests.schedules.running import assert_agrees, call, kernels, random

SIZES = [(1, 1, 1, 1), (2, 7, 37, 11), (3, 9, 48, 32), (1, 33, 100, 5), (4, 70, 64, 16)]


def check(isa, sizes, transpose_b, symbolic):
    batch, m, n, k = sizes
    a, b = random(batch, m, k), random(batch, k, n, seed=1)
    given = np.ascontiguousarray(b.transpose(0, 2, 1)) if transpose_b else b
    workload = BatchMatmul(*((None,) * 4 if symbolic else sizes), transpose_b)
    (result,) = call(workload, isa, [a, given], (batch, m, n))
    assert_agrees(result, a.astype("float64") @ b)


@pytest.mark.parametrize("isa", kernels(BatchMatmul(None, None, None, None)))
@pytest.mark.parametrize("transpose_b", [False, True], ids=["", "transposed"])
def test_any_sizes(isa, transpose_b):
    for sizes in SIZES:
        check(isa, sizes, transpose_b, symbolic=True)


@pytest.mark.parametrize("transpose_b", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("sizes", SIZES[1:3], ids=str)
def test_known_sizes(sizes, transpose_b):
    check("avx2", sizes, transpose_b, symbolic=False)


def test_a_space_has_the_tile_that_wastes_no_row():
    """The default one is 8 rows high, and the second of two overlaps the first."""
    space = TiledBatchMatmul.space(targets.load("pixel8"), BatchMatmul(2, 10, 64, 64))
    assert {(5, 8), (8, 8)} <= {(point.rows, point.columns) for point in space}
