"""Bundles of the tiny model, for the tests of whatever handles bundles."""

from pathlib import Path

import pytest
import tvm
from tvm import relax

from pocketformer.compiler.bundle import Bundle
from tests.compiler.tiny import Tiny, build, tiny_manifest, tiny_weights


@pytest.fixture(scope="session")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(Tiny, tmp_path_factory.mktemp("library") / "tiny.so")


@pytest.fixture(scope="session")
def embedded_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = Tiny
    for name in ("main", "main_seq_4"):
        weights = {key: tvm.runtime.tensor(array) for key, array in tiny_weights().items()}
        module = relax.transform.BindParams(name, weights)(module)
    return build(module, tmp_path_factory.mktemp("library") / "embedded.so")


@pytest.fixture
def bundle(tiny_library: Path) -> Bundle:
    """The tiny model, not saved yet."""
    return Bundle.create(tiny_library, tiny_weights(), tiny_manifest())


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    """The folder of the tiny model's bundle, which a test may damage."""
    bundle.save(tmp_path / "tiny.pf")
    return tmp_path / "tiny.pf"
