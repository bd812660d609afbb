"""Transposes on both sides of a merge of axes become one, or none."""

import pytest
import tvm
from tvm import tirx
from tvm.relax import op

from pocketformer.passes.fold_arithmetic import FoldArithmetic
from tests.passes.graphs import module

BATCH = tirx.Var("batch", "int64")


def folded(body, shape):
    return FoldArithmetic()(module({"x": shape}, {}, body))


@pytest.mark.parametrize("batch", [2, BATCH], ids=["known", "symbolic"])
def test_an_image_that_is_turned_there_and_back_stays(batch):
    """[batch, rows, columns, channels] as channels first, its places merged, then channels last."""
    def body(x):
        channels_first = op.permute_dims(x, [0, 3, 1, 2])
        return op.permute_dims(op.reshape(channels_first, (batch, 8, 12)), [0, 2, 1])

    after = folded(body, (batch, 3, 4, 8))
    expected = module({"x": (batch, 3, 4, 8)}, {}, lambda x: op.reshape(x, (batch, 12, 8)))
    tvm.ir.assert_structural_equal(after, expected)


def test_two_transposes_become_one(agree):
    def body(x):
        return op.permute_dims(op.reshape(op.permute_dims(x, [1, 0, 2, 3]), (3, 10, 4)), [1, 0, 2])

    before = module({"x": (2, 3, 5, 4)}, {}, body)
    after = FoldArithmetic()(before)
    assert after.script().count("permute_dims") == 1
    agree(before, after)


def test_leaves_a_reshape_that_cuts_through_an_axis():
    def body(x):
        return op.permute_dims(op.reshape(op.permute_dims(x, [1, 0]), (2, 12)), [1, 0])

    before = module({"x": (4, 6)}, {}, body)
    assert FoldArithmetic()(before).same_as(before)
