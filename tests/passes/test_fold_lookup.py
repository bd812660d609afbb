"""A lookup of every element at its own place is the tensor itself."""

import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op

from pocketformer.passes.fold_arithmetic import FoldArithmetic
from tests.passes.graphs import module

SEQ = tirx.Var("seq", "int64")


def places(batch, seq, start=0, turned=False):
    """The indices of a [batch, seq] table, for each batch and, in the last axis, each key."""
    emit = relax.BlockBuilder.current().emit
    rows = emit(op.reshape(op.arange(start, batch + start, 1, "int64"), (batch, 1, 1, 1)))
    keys = emit(op.reshape(op.arange(0, seq, 1, "int64"), (1, 1, 1, seq)))
    wide = [emit(op.broadcast_to(each, (batch, 1, 1, seq))) for each in (rows, keys)]
    columns = [emit(op.reshape(each, (batch, 1, 1, seq, 1))) for each in wide]
    return emit(op.concat(columns[::-1] if turned else columns, axis=-1))


def folded(body, shape):
    return FoldArithmetic()(module({"x": shape}, {}, body))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("seq", [7, SEQ], ids=["known", "symbolic"])
def test_a_mask_that_is_looked_up_place_by_place_is_itself(batch, seq):
    after = folded(lambda x: op.gather_nd(x, places(batch, seq)), (batch, seq))
    expected = module({"x": (batch, seq)}, {}, lambda x: op.reshape(x, (batch, 1, 1, seq)))
    tvm.ir.assert_structural_equal(after, expected)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.gather_nd(x, places(3, 4, start=1)),
        lambda x: op.gather_nd(x, places(4, 4, turned=True)),
        lambda x: op.gather_nd(x, places(2, 4)),
    ],
    ids=["from one on", "turned", "a part"],
)
def test_leaves_other_lookups_alone(body):
    assert "gather_nd" in folded(body, (4, 4)).script()


def bias(table, x, axes):
    """What T5 adds to its scores: for each head and distance a number of `table`."""
    places = relax.BlockBuilder.current().emit(op.astype(x, "int64"))
    return op.permute_dims(op.take(table, places, axis=0), axes)


def test_a_bias_that_is_looked_up_is_not_turned_afterwards():
    before = module({"x": (5, 5)}, {"table": (9, 4)}, lambda x, t: bias(t, x, [2, 0, 1]))
    after = FoldArithmetic()(before)

    def body(x, table):
        places = relax.BlockBuilder.current().emit(op.astype(x, "int64"))
        return op.take(op.permute_dims(table, [1, 0]), places, axis=1)

    tvm.ir.assert_structural_equal(after, module({"x": (5, 5)}, {"table": (9, 4)}, body))


@pytest.mark.parametrize("axes", [[0, 2, 1], [2, 1, 0]], ids=str)
def test_leaves_other_transposes_alone(axes):
    before = module({"x": (5, 5)}, {"table": (9, 4)}, lambda x, t: bias(t, x, axes))
    assert FoldArithmetic()(before).same_as(before)
