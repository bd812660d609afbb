"""compile(): from a model to a bundle that agrees with onnxruntime, in every kind of shape."""

import numpy as np
import onnx
import pytest

import pocketformer as pf
from tests.compiler.test_pipeline import GRAPH_STEPS, KERNEL_STEPS, LAST_STEPS
from tests.encoder import encoder, inputs
from tests.numerics.check import assert_close, reference


def check(bundle: pf.Bundle, proto: onnx.ModelProto, *sizes: tuple[int, int]) -> None:
    session = pf.Session(bundle)
    for batch, seq in sizes:
        given = inputs(batch, seq)
        assert_close(list(session.run(**given).values()), reference(proto, given))


def functions(bundle: pf.Bundle) -> list[str]:
    return [entry.function for entry in bundle.manifest.entries]


def test_a_fixed_shape_agrees():
    proto = encoder()
    bundle = pf.compile(proto, "host", dims={"seq": 9})
    check(bundle, proto, (1, 9))
    assert bundle.manifest.inputs[0].shape == (1, 9)


def test_one_symbolic_bundle_is_right_at_every_length():
    proto = encoder(batch="batch")
    bundle = pf.compile(proto, "host", dims={"seq": "1..40"})
    check(bundle, proto, (1, 1), (2, 2), (1, 7), (3, 16), (1, 39), (2, 40))
    assert functions(bundle) == ["main"]


def test_buckets_have_functions_of_their_own_and_share_weights():
    proto = encoder()
    bundle = pf.compile(proto, "host", dims={"seq": "4,16"})
    assert functions(bundle) == ["main", "main_seq_4", "main_seq_16"]
    assert len({entry.weights for entry in bundle.manifest.entries}) == 1
    check(bundle, proto, (1, 4), (1, 16), (1, 5), (1, 1))


def test_two_bucketed_dimensions_give_every_combination():
    proto = encoder(batch="batch")
    bundle = pf.compile(proto, "host", dims={"seq": "4,16", "batch": "1,2"})
    assert len(functions(bundle)) == 5
    check(bundle, proto, (1, 4), (2, 16), (1, 7))


def test_an_input_without_a_bucketed_dimension_keeps_its_own():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        "g (float[S, 8] x, float[T, 8] y) => (float[U, 8] z) { z = Concat<axis = 0>(x, y) }"
    )
    session = pf.Session(pf.compile(proto, "host", dims={"S": "4,16"}))
    for s, t in ((4, 3), (16, 1), (5, 5)):
        x, y = np.ones((s, 8), np.float32), np.zeros((t, 8), np.float32)
        np.testing.assert_array_equal(session.run(x=x, y=y)["z"], np.concatenate([x, y]))


def test_too_many_combinations_of_buckets_are_refused():
    many = ",".join(map(str, range(1, 10)))
    with pytest.raises(pf.BadDim, match="81 combinations, at most 63"):
        pf.compile(encoder(batch="batch"), "host", dims={"seq": many, "batch": many})


def test_embedded_weights_need_no_file(tmp_path):
    proto = encoder(seq=8)
    bundle = pf.compile(proto, "host", embed_weights=True)
    bundle.save(tmp_path / "model.pf")
    assert sorted(path.name for path in (tmp_path / "model.pf").iterdir()) == [
        "manifest.json",
        "model.so",
    ]
    check(pf.Bundle.load(tmp_path / "model.pf"), proto, (1, 8))


def test_a_saved_bundle_computes_what_the_fresh_one_does(tmp_path):
    bundle = pf.compile(encoder(seq=8), "host")
    bundle.save(tmp_path / "model.pf")
    given = inputs(1, 8)
    fresh = pf.Session(bundle).run(**given)
    loaded = pf.Session(tmp_path / "model.pf").run(**given)
    np.testing.assert_array_equal(fresh["hidden"], loaded["hidden"])


@pytest.mark.parametrize(
    "target", ["x86_64-linux", "arm64-linux", "arm64-android", "armv7-android", "pixel8"]
)
def test_compiles_for_every_platform(target, tmp_path):
    bundle = pf.compile(encoder(), target, dims={"seq": "1..64"})
    bundle.save(tmp_path / "model.pf")
    loaded = pf.Bundle.load(tmp_path / "model.pf", check_machine=False)
    assert loaded.manifest.target.name == target


def test_progress_reaches_from_nothing_to_almost_all():
    seen: list[float] = []
    pf.compile(encoder(seq=8), "host", progress=lambda step, share: seen.append(share))
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert 0.8 < seen[-1] <= 1.0


def test_the_module_after_every_pass_can_be_read(tmp_path):
    pf.compile(encoder(seq=8), "host", dump_ir=tmp_path / "ir")
    steps = [*GRAPH_STEPS, "store_short", *KERNEL_STEPS, *LAST_STEPS]
    names = [path.name for path in sorted((tmp_path / "ir").iterdir())]
    assert names == [f"{place:03}_{step}.py" for place, step in enumerate(steps, 1)]
    (fused,) = (tmp_path / "ir").glob("*_fuse_attention.py")
    assert "fused_attention" in fused.read_text()


def test_a_model_can_be_compiled_twice():
    proto = encoder()
    model = pf.load(proto)
    for seq in (5, 8):
        check(pf.compile(model, "host", dims={"seq": seq}), proto, (1, seq))


def test_the_model_that_was_given_is_left_as_it_was():
    model = pf.load(encoder())
    before = {name: array.copy() for name, array in model.weights.items()}
    pf.compile(model, "host", dims={"seq": 8})
    assert model.weights.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(model.weights[name], array)
