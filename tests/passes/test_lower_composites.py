"""A composite for which no kernel was picked becomes plain operators again."""

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax import op

from pocketformer.passes.composite import Composites
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.graph import Graph, Replacement, sources
from pocketformer.passes.lower_composites import LowerComposites
from tests.passes.graphs import composites, module, random, run

X, W, BIAS = (1, 5, 7), (7, 7), (7,)


def twice(x, w, b):
    return op.matmul(op.nn.relu(op.add(op.matmul(x, w), b)), w)


def test_the_body_stands_for_the_same_sources_under_names_of_its_own():
    before = module({"x": X}, {"w": W, "b": BIAS}, twice)
    fused = FuseLinear()(before)
    after = LowerComposites()(fused)
    assert composites(after) == []
    assert len(after.get_global_vars()) == 1    # nothing is left of the bodies
    bindings = [*Graph(after["main"])]
    names = [var.name for var, _ in bindings]
    assert len(set(names)) == len(names)
    wanted = {name for _, value in Graph(before["main"]) for name in sources(value)}
    assert {name for _, value in bindings for name in sources(value)} == wanted
    arrays = random(X, W, BIAS)
    np.testing.assert_array_equal(run(after, *arrays)[0], run(before, *arrays)[0])


def test_sizes_that_are_not_known_become_the_callers():
    batch, seq = tirx.Var("batch", "int64"), tirx.Var("seq", "int64")
    before = module({"x": (batch * seq, 2, 3, 8)}, {}, lambda x: op.reshape(x, (batch * seq, 48)))
    graph = Graph(before["main"])
    [(var, call)] = [each for each in graph if isinstance(each[1], relax.Call)]
    composites = Composites(before)
    fused = composites.call(
        "flat", call.args[:1], lambda x: op.reshape(x, (x.ty.shape[0], 48)), {}, call.span)
    [(gvar, _)] = entry_functions(before)
    after = LowerComposites()(composites.module({gvar: graph.replaced({var: Replacement(fused)})}))
    tvm.ir.assert_structural_equal(after["main"].ret_ty, before["main"].ret_ty)
