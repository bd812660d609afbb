"""Every family of Transformers, from both exporters, agrees with onnxruntime after our pipeline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pocketformer as pf
from tests import zoo
from tests.compiler.recorded import random_records
from tests.numerics.check import assert_close, reference

pytest.importorskip("torch")
pytest.importorskip("transformers")

# What torch's own exporter refuses: if one of these goes through, a test fails and the row can go.
REFUSED = {("whisper_decoder", "legacy"): "aten::diff"}
LENGTHS = ((1, 7), (3, 20))    # batch and length: one shorter and one longer than the example

MODELS = pytest.mark.parametrize("model", zoo.ZOO, ids=str)
EXPORTERS = pytest.mark.parametrize("exporter", zoo.EXPORTERS)
Exported = Callable[[zoo.ZooModel, str], Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The ONNX file of a model with dynamic axes, exported once."""
    folder = tmp_path_factory.mktemp("zoo")

    def path_of(model: zoo.ZooModel, exporter: str) -> Path:
        path = folder / f"{model}.{exporter}.onnx"
        if not path.exists():
            zoo.export(model, exporter, dynamic=True, path=path)
        return path

    return path_of


@pytest.fixture(scope="session")
def compiled(exported: Exported) -> Callable[[str], pf.Bundle]:
    """The bundle of a model that was exported by dynamo with dynamic axes, compiled once."""
    return functools.cache(
        lambda name: pf.compile(pf.load(exported(zoo.BY_NAME[name], "dynamo")))
    )


def check(bundle: pf.Bundle, path: Path, *runs: zoo.Arrays) -> None:
    session = pf.Session(bundle, threads=1)
    for inputs in runs:
        assert_close(list(session.run(**inputs).values()), reference(str(path), inputs))


def example_sizes(model: zoo.ZooModel) -> dict[str, int]:
    inputs = model.inputs(*zoo.EXAMPLE)
    return {
        axis: inputs[name].shape[index]
        for name, axes in model.axes.items()
        for index, axis in axes.items()
    }


@EXPORTERS
@MODELS
def test_one_symbolic_bundle_is_right_at_every_size(
    exported: Exported,
    compiled: Callable[[str], pf.Bundle],
    model: zoo.ZooModel,
    exporter: str,
) -> None:
    if (said := REFUSED.get((model.name, exporter))) is not None:
        with pytest.raises(Exception, match=said):
            exported(model, exporter)
        return
    path = exported(model, exporter)
    bundle = compiled(model.name) if exporter == "dynamo" else pf.compile(pf.load(path))
    dims = bundle.manifest.dims
    assert set(dims) == {axis for axes in model.axes.values() for axis in axes.values()}
    check(bundle, path, *(model.inputs(batch, seq) for batch, seq in LENGTHS))


@MODELS
def test_a_bundle_of_fixed_sizes_is_right(exported: Exported, model: zoo.ZooModel) -> None:
    path = exported(model, "dynamo")
    loaded = pf.load(path, dims=example_sizes(model))
    assert not loaded.dims
    check(pf.compile(loaded), path, model.inputs(*zoo.EXAMPLE))


@EXPORTERS
def test_a_file_exported_with_fixed_sizes_is_right(tmp_path: Path, exporter: str) -> None:
    model = zoo.BY_NAME["llama"]
    path = tmp_path / "llama.onnx"
    zoo.export(model, exporter, dynamic=False, path=path)
    loaded = pf.load(path)
    assert not loaded.dims
    check(pf.compile(loaded), path, model.inputs(*zoo.EXAMPLE))


@MODELS
def test_the_zoo_s_outputs_depend_on_its_inputs(exported: Exported, model: zoo.ZooModel) -> None:
    """Outputs that the inputs hardly change would make the comparisons above worthless."""
    inputs = model.inputs(*zoo.EXAMPLE)
    changed = {
        name: np.roll(array, 1, axis=0) if array.dtype == np.int64 else array[::-1] * -0.7
        for name, array in inputs.items()
    }
    path = str(exported(model, "dynamo"))
    for first, second in zip(reference(path, inputs), reference(path, changed), strict=True):
        assert np.abs(first - second).mean() > 0.1 * np.abs(first).mean()


@pytest.mark.parametrize("name", ["bert", "llama", "t5_decoder"])
def test_records_of_random_points_change_nothing(exported: Exported, name: str) -> None:
    model, path = zoo.BY_NAME[name], exported(zoo.BY_NAME[name], "dynamo")
    loaded = pf.load(path, dims=example_sizes(model))
    records = random_records(loaded, pf.targets.load("host").variants, seed=3)
    bundle = pf.compile(loaded, records=records)
    assert any(record.tuned for record in bundle.manifest.kernels)
    check(bundle, path, model.inputs(*zoo.EXAMPLE))


# How many kernels only turn axes: an image is cut into tiles before its first product.
TURNING = {"bert": 0, "gpt2": 0, "llama": 0, "t5_encoder": 0, "t5_decoder": 0, "vit": 1}


@pytest.mark.parametrize("name", TURNING)
def test_products_and_attention_read_their_operands_as_they_lie(
    compiled: Callable[[str], pf.Bundle], name: str
) -> None:
    kernels = [record.kernel for record in compiled(name).manifest.kernels]
    turning = [kernel for kernel in kernels if kernel.startswith("transpose")]
    assert len(turning) == TURNING[name], kernels
    masks = [kernel for kernel in kernels if "where" in kernel]
    assert len(masks) == len(set(masks))    # each is made once, not in every layer
