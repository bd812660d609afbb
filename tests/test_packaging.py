"""What a wheel and an sdist hold."""

import ast
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("compiler", "passes", "runtime", "schedules", "targets")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what packaging reads, so that a build leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("src", *PARTS):
        skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=skipped)
    return folder


def build(kind, source, output):
    """Run setuptools' own entry point, which needs no network."""
    output.mkdir()
    code = f"import sys; from setuptools.build_meta import build_{kind} as b; b(sys.argv[1])"
    command = [sys.executable, "-c", code, str(output)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = output.iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    return build("sdist", source, tmp_path_factory.mktemp("sdist") / "out")


@pytest.fixture(scope="module")
def wheel_files(source, tmp_path_factory):
    wheel = build("wheel", source, tmp_path_factory.mktemp("wheel") / "out")
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}


def expected_files():
    """The package's code and data, as they lie in the repository."""
    code = {f"pocketformer/{path.relative_to(ROOT)}" for part in PARTS
            for path in (ROOT / part).rglob("*.py")}
    tables = {f"pocketformer/{path.relative_to(ROOT)}" for path in (ROOT / "targets").rglob("*")
              if path.suffix in (".toml", ".jsonl")}
    native = {f"pocketformer/{path.relative_to(ROOT)}" for path in (ROOT / "runtime").rglob("*")
              if path.suffix in (".h", ".cc", ".c")}
    assert native
    return code | tables | native | {"pocketformer/__init__.py", "pocketformer/py.typed"}


def test_wheel_holds_the_code_and_its_data_and_nothing_else(wheel_files):
    outside = {name for name in wheel_files if ".dist-info/" not in name}
    assert outside == expected_files()


def test_wheel_carries_the_licence(wheel_files):
    assert any(name.endswith("licenses/LICENSE") for name in wheel_files)


def test_sdist_builds_the_same_wheel(sdist, wheel_files, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    wheel = build("wheel", unpacked, tmp_path / "out")
    assert {n for n in zipfile.ZipFile(wheel).namelist() if not n.endswith("/")} == wheel_files


def test_import_brings_no_heavy_library():
    code = "import sys, pocketformer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"tvm", "tvm_ffi", "torch", "onnx", "transformers", "onnxruntime", "numpy"}
    assert not heavy & set(done.stdout.split())


def test_every_public_name_is_declared_for_type_checkers():
    import pocketformer

    tree = ast.parse((ROOT / "src/pocketformer/__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {alias.asname for node in block.body for alias in node.names}
    assert declared == set(pocketformer.__all__)


def test_every_public_name_is_there():
    import pocketformer

    for name in pocketformer.__all__:
        assert getattr(pocketformer, name) is not None


def test_every_error_is_public():
    import pocketformer
    from pocketformer.compiler import errors

    mine = {name for name in vars(errors) if isinstance(getattr(errors, name), type)}
    assert mine <= set(pocketformer.__all__)


def test_unknown_name_is_an_attribute_error():
    import pocketformer

    with pytest.raises(AttributeError, match="no attribute 'relay'"):
        pocketformer.relay    # noqa: B018 - looking it up is the test
