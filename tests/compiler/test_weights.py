"""weights.safetensors: what is written can be read anywhere, and what is read is checked."""

import contextlib
import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from pocketformer.compiler.checksum import CHUNK, HashedFile
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.weights import ALIGNMENT, DTYPES, read_weights, write_weights
from tests.compiler.tiny import one_sentence

ODD = {
    "odd": np.arange(35, dtype=np.int8).reshape(5, 7),
    "scalar": np.float32(2.5).reshape(()),
    "none": np.empty((0, 4), np.float16),
    "mask": np.array([True, False, True]),
    "turned": np.arange(12, dtype=np.float64).reshape(3, 4).T,
    "last": np.arange(16, dtype=np.int64),
}


def write(path: Path, weights: dict[str, np.ndarray]) -> HashedFile:
    with path.open("wb") as file:
        hashed = HashedFile(file)
        write_weights(hashed, weights)
    return hashed


def read(path: Path) -> dict[str, np.ndarray]:
    content = np.empty(path.stat().st_size + ALIGNMENT, np.uint8)
    start = -content.ctypes.data % ALIGNMENT
    content = content[start : start + path.stat().st_size]
    content[:] = np.fromfile(path, np.uint8)
    return read_weights(content, "w.safetensors")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


def test_the_safetensors_library_reads_every_tensor(file):
    write(file, ODD)
    found = safetensors.numpy.load_file(file)
    for name, array in ODD.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_a_dtype_comes_back_as_it_was(dtype, file):
    array = np.arange(5).astype(dtype)
    write(file, {"w": array})
    np.testing.assert_array_equal(read(file)["w"].view(np.uint8), array.view(np.uint8))
    assert read(file)["w"].dtype == array.dtype


def test_the_safetensors_library_agrees_on_bfloat16(file):
    write(file, {"w": np.array([1.5, -2.0], ml_dtypes.bfloat16)})
    header = json.loads(file.read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert header["w"]["dtype"] == "BF16"


def test_every_tensor_is_aligned_in_the_file_and_in_its_order(file):
    write(file, ODD)
    found = read(file)
    assert list(found) == list(ODD)
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in found.values())


def test_reading_copies_nothing(file):
    write(file, ODD)
    content = np.fromfile(file, np.uint8)
    assert all(
        np.shares_memory(array, content)
        for array in read_weights(content, "w").values()
        if array.size
    )


def test_checksums_are_those_of_the_file(file):
    hashed = write(file, {"w": np.arange(CHUNK // 2, dtype=np.int32)})    # two chunks and a bit
    record, content = hashed.record(), file.read_bytes()
    assert record.bytes == len(content)
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert list(record.chunks) == [
        hashlib.sha256(content[i : i + CHUNK]).hexdigest() for i in range(0, len(content), CHUNK)
    ]


@pytest.mark.parametrize("name", ["__padding__.1", "__metadata__"])
def test_a_name_that_the_format_uses_is_refused(name, file):
    with pytest.raises(BadBundle) as error:
        write(file, {name: np.zeros(1)})
    assert name in one_sentence(error)


def test_a_dtype_that_cannot_be_stored_is_refused(file):
    with pytest.raises(BadBundle) as error:
        write(file, {"w": np.zeros(1, np.complex64)})
    assert "complex64" in one_sentence(error)


def made(header: object, data: bytes = b"") -> np.ndarray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return np.frombuffer(len(text).to_bytes(8, "little") + text + data, np.uint8)


def tensor(begin: int, end: int, **changes: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **changes}


def test_the_helper_of_the_tests_below_makes_what_is_accepted():
    assert read_weights(made({"a": tensor(0, 64), "b": tensor(64, 66)}, bytes(66)), "w").keys() == {
        "a", "b",
    }


BAD = {
    "no bytes": (np.empty(0, np.uint8), "truncated"),
    "a header longer than the file": (made({})[:20], "truncated"),
    "an endless header": (np.full(64, 255, np.uint8), "truncated"),
    "no JSON": (made(b"[1,"), "no JSON"),
    "no UTF-8": (made(b'{"\xff": 1}'), "UTF-8"),
    "too deep": (made(b"[" * 100_000), "no JSON"),
    "a list": (made([]), "no JSON object"),
    "one name twice": (made(b'{"a": {}, "a": {}}'), "twice"),
    "an entry that is a number": (made({"a": 1}), "'a'"),
    "a field too many": (made({"a": tensor(0, 64, more=1)}, bytes(64)), "'a'"),
    "an unknown dtype": (made({"a": tensor(0, 64, dtype="F2")}, bytes(64)), "'F2'"),
    "a dtype that is a list": (made({"a": tensor(0, 64, dtype=[])}, bytes(64)), "dtype"),
    "a negative axis": (made({"a": tensor(0, 64, shape=[-8, -8])}, bytes(64)), "shape"),
    "an axis that is true": (made({"a": tensor(0, 1, shape=[True])}, bytes(1)), "shape"),
    "a shape that overflows": (made({"a": tensor(0, 64, shape=[1 << 40] * 9)}, bytes(64)), "shape"),
    "a shape of high rank": (made({"a": tensor(0, 1, shape=[1] * 99)}, bytes(1)), "shape"),
    "three offsets": (made({"a": tensor(0, 64, data_offsets=[0, 1, 2])}, bytes(64)), "offsets"),
    "backward offsets": (made({"a": tensor(0, 1, data_offsets=[64, 0])}, bytes(64)), "bytes"),
    "an overlap": (made({"a": tensor(0, 64), "b": tensor(0, 64)}, bytes(64)), "overlaps"),
    "a hole": (made({"a": tensor(0, 64), "b": tensor(128, 130)}, bytes(130)), "hole"),
    "data that ends early": (made({"a": tensor(0, 64)}, bytes(63)), "truncated"),
    "data that nobody owns": (made({"a": tensor(0, 64)}, bytes(65)), "too long"),
    "no alignment": (made({"a": tensor(0, 3), "b": tensor(3, 5)}, bytes(5)), "aligned"),
}


@pytest.mark.parametrize(("content", "word"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused(content, word):
    with pytest.raises(BadBundle, match=word) as error:
        read_weights(content, "w.safetensors")
    one_sentence(error)


def test_no_changed_header_byte_crashes_the_reader(file):
    write(file, ODD)
    good = np.fromfile(file, np.uint8)
    random = np.random.default_rng(0)
    for _ in range(500):
        bad = good.copy()
        bad[random.integers(0, 600, 2)] = random.integers(0, 256, 2)
        with contextlib.suppress(BadBundle):
            read_weights(bad, "w.safetensors")
