"""What every rewriting pass does with names, reasons and what is left over."""

import tvm
from tvm import relax
from tvm.relax import op

from pocketformer.passes.graph import Graph, op_name, sources
from pocketformer.passes.pattern import Value, operator
from pocketformer.passes.rewrite import Refused, Rewrite, same_type, through
from tests.passes.graphs import module

X = (2, 3, 8)
x, y = Value("x"), Value("y")


class FuseTanhSum(Rewrite):
    """tanh(x) + y  ->  exp(reshape(x)) in shape: only the bookkeeping matters here."""

    patterns = (operator("tanh", x) + y,)

    def rewrite(self, match):
        return op.reshape(op.exp(op.reshape(match.value("x"), (6, 8))), X)


class FuseNothing(Rewrite):
    """Refuses every tanh(x) + y and every tanh(x)."""

    patterns = (operator("tanh", x) + y, operator("tanh", x))

    def rewrite(self, match):
        raise Refused(f"found {len(match.calls)}")


def tanh_sum(x, y):
    return op.add(y, op.tanh(x))


def bindings(mod):
    return [binding for binding in mod["main"].body.blocks[0].bindings if op_name(binding.value)]


def test_binds_every_new_operator_under_a_name_and_the_sources_of_the_old():
    before = module({"x": X, "y": X}, {}, tanh_sum)
    after = FuseTanhSum()(before)
    tanh, total = [binding.var.name for binding in bindings(before)]
    names = [binding.var.name for binding in bindings(after)]
    assert names == [f"{total}_0", f"{total}_1", total]
    assert {sources(binding.value) for binding in bindings(after)} == {(tanh, total)}
    relax.analysis.well_formed(after)


def test_returns_the_very_module_in_which_nothing_fits():
    before = module({"x": X}, {}, op.tanh)
    assert FuseTanhSum()(before).same_as(before)


def test_does_not_change_the_module_that_it_was_given():
    before = module({"x": X, "y": X}, {}, tanh_sum)
    text = before.script()
    FuseTanhSum()(before)
    assert before.script() == text


def test_refuses_a_result_of_another_shape(reasons):
    before = module({"x": X, "y": (2, 2, 3, 8)}, {}, tanh_sum)
    assert FuseTanhSum()(before).same_as(before)
    ((_, reason),) = reasons()
    assert reason.startswith('the result would be R.Tensor((2, 3, 8), dtype="float32"), not')


def test_gives_one_reason_for_an_operator_and_its_parts(reasons):
    FuseNothing()(module({"x": X, "y": X}, {}, tanh_sum))
    assert [reason for _, reason in reasons()] == ["found 2"]


def test_a_refusal_bears_the_name_of_the_pass(caplog):
    caplog.set_level("INFO", "pocketformer.passes")
    FuseNothing()(module({"x": X, "y": X}, {}, tanh_sum))
    assert [record.pass_name for record in caplog.records] == ["fuse_nothing"]


def test_sees_through_the_renamings_of_common_expressions():
    def body(x, y):
        left, right = (relax.BlockBuilder.current().emit(op.exp(x)) for _ in range(2))
        return op.add(op.multiply(op.tanh(left), right), y)

    class FuseTwice(Rewrite):
        patterns = (operator("tanh", x) * x,)

        def rewrite(self, match):
            return op.sin(match.value("x"))

    before = module({"x": X, "y": X}, {}, body)
    assert FuseTwice()(before).same_as(before)
    after = FuseTwice()(relax.transform.EliminateCommonSubexpr()(before))
    assert [op_name(binding.value) for binding in bindings(after)] == [
        "relax.exp",
        "relax.sin",
        "relax.add",
    ]


def test_looks_through_changes_of_layout():
    def body(x):
        return op.permute_dims(op.reshape(op.tanh(x), (6, 8)), [1, 0])

    mod = module({"x": X}, {}, body)
    last = mod["main"].body.blocks[0].bindings[-2].var
    below, passed = through(Graph(mod["main"]), last, "relax.reshape", "relax.permute_dims")
    assert below.same_as(bindings(mod)[0].var)
    assert [op_name(call) for call in passed] == ["relax.permute_dims", "relax.reshape"]


def test_proves_sizes_equal_that_are_written_differently():
    seq = tvm.tirx.Var("seq", "int64")
    tensor = relax.TensorType
    assert same_type(tensor((2 * seq, 8), "float32"), tensor((seq + seq, 8), "float32"))
    assert not same_type(tensor((2 * seq, 8), "float32"), tensor((seq, 8), "float32"))
    assert not same_type(tensor((seq, 8), "float32"), tensor((seq, 8), "float16"))
    assert not same_type(tensor((seq, 8), "float32"), tensor((1, seq, 8), "float32"))
