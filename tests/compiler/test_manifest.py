"""manifest.json: every field comes back, and no other text is taken for one."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from pocketformer.compiler.checksum import FileRecord
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import Entry, LevelRecord, TargetRecord, WeightsRecord
from pocketformer.compiler.model import TensorSpec
from tests.compiler.test_accuracy_report import report
from tests.compiler.tiny import one_sentence, tiny_manifest

LEVEL = LevelRecord("base", ("avx2",), ("f16c",), "x86-64-v3", 256, 3, 4096, 0)
A_FILE = FileRecord(3, "ab" * 32, ("cd" * 32,))


@pytest.fixture
def manifest() -> Manifest:
    return replace(
        tiny_manifest(),
        weights=WeightsRecord("weights.safetensors", 2, 576),
        files={"model.so": A_FILE, "weights.safetensors": A_FILE},
    )


def signed(data: dict[str, object]) -> bytes:
    """Manifest text of `data` with the right checksum, so that the fields decide."""
    text = json.dumps({**data, "checksum": "0" * 64}).encode()
    return text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode())


def test_every_field_comes_back(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_levels_come_back_and_an_older_manifest_has_none(manifest):
    levels = replace(
        manifest,
        levels=(LEVEL, replace(LEVEL, name="avx9", isa=("avx9",), vector_bits=512)),
        entries=(Entry("main", {}, (), "base"), Entry("main__avx9", {}, (), "avx9")),
    )
    assert Manifest.from_json(levels.to_json()) == levels
    assert levels.at("avx9").isa == ("avx9",)
    assert levels.at("avx9").vector_bits == 512
    data = json.loads(manifest.to_json())
    del data["levels"]
    for entry in data["entries"]:
        del entry["level"]
    older = Manifest.from_json(signed(data))
    assert older == manifest
    assert older.at("") == older.target


def test_an_accuracy_report_comes_back_and_an_older_manifest_has_none(manifest):
    measured = replace(manifest, accuracy=report())
    assert Manifest.from_json(measured.to_json()) == measured
    data = json.loads(manifest.to_json())
    del data["accuracy"]
    assert Manifest.from_json(signed(data)) == manifest


def test_the_text_is_plain_json_with_the_promised_fields(manifest):
    data = json.loads(manifest.to_json())
    assert data["format_version"] == 1
    assert data["tvm_version"].startswith("0.27")
    assert data["inputs"][0] == {"name": "x", "shape": ["batch", "seq", 8], "dtype": "float32"}
    assert data["dims"]["seq"] == {"low": 1, "high": 4096, "buckets": [4]}
    assert data["entries"][1] == {
        "function": "main_seq_4", "dims": {"seq": 4}, "weights": ["c", "w"], "level": "",
    }
    assert data["files"]["model.so"]["sha256"] == "ab" * 32


def test_a_helper_signs_what_is_accepted(manifest):
    data = json.loads(manifest.to_json())
    assert Manifest.from_json(signed(data)) == manifest


def test_every_changed_byte_is_noticed(manifest):
    text = manifest.to_json()
    random = np.random.default_rng(0)
    for i in random.choice(len(text), 300, replace=False):
        changed = bytearray(text)
        changed[i] ^= 1 << int(random.integers(0, 7))
        with pytest.raises(BadBundle) as error:
            Manifest.from_json(bytes(changed))
        one_sentence(error)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"[]", "no JSON object"),
        (b"{}", "no format version"),
        (b'{"format_version": true}', "no format version"),
        (b'{"format_version": NaN}', "NaN"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"format_version": 2}', "format version 2; this pocketformer reads 1"),
    ],
)
def test_another_text_is_refused(text, word):
    with pytest.raises(BadBundle, match=word) as error:
        Manifest.from_json(text)
    one_sentence(error)


CHANGES = {
    "a field is missing": (lambda data: data.pop("recipe"), "lacks the field 'recipe'"),
    "a field is unknown": (lambda data: data.update(more=1), "unknown field 'more'"),
    "a number is text": (lambda data: data["target"].update(threads="1"), r"target\.threads"),
    "a number is true": (lambda data: data["weights"].update(count=True), r"weights\.count"),
    "an axis is 1.5": (lambda data: data["inputs"][0]["shape"].append(1.5), r"shape\[3\] is 1\.5"),
    "an axis is code": (
        lambda data: data["inputs"][0].update(shape=["__import__('os')"]), "no formula",
    ),
    "a list is an object": (lambda data: data.update(entries={}), "entries"),
    "an object is a list": (lambda data: data.update(dims=[]), "dims"),
    "an entry is text": (lambda data: data.update(entries=["main"]), r"entries\[0\]"),
    "a range is empty": (lambda data: data["dims"]["seq"].update(high=0), "range 1..0"),
    "a checksum is short": (
        lambda data: data["files"]["model.so"].update(sha256="ab"), "hexadecimal",
    ),
    "a chunk is missing": (lambda data: data["files"]["model.so"].update(chunks=[]), "checksums"),
    "a file is outside": (lambda data: data["weights"].update(file="../w"), "plain file name"),
    "a file is absolute": (lambda data: data["weights"].update(file="/etc/w"), "plain file name"),
    "a file is hidden": (lambda data: data["weights"].update(file=".w"), "plain file name"),
    "a file has a zero": (lambda data: data["weights"].update(file="w\0"), "plain file name"),
    "a file is the manifest": (
        lambda data: data["weights"].update(file="manifest.json"), "files are",
    ),
    "a level is unknown": (
        lambda data: data["entries"][0].update(level="avx9"), "unknown level 'avx9'",
    ),
    "the library is missing": (lambda data: data["files"].pop("model.so"), "files are"),
    "a file more": (
        lambda data: data["files"].update({"x.so": data["files"]["model.so"]}), "files are",
    ),
}


@pytest.mark.parametrize(("change", "word"), CHANGES.values(), ids=CHANGES)
def test_a_wrong_field_is_refused(change, word, manifest):
    data = json.loads(manifest.to_json())
    change(data)
    with pytest.raises(BadBundle, match=word) as error:
        Manifest.from_json(signed(data))
    one_sentence(error)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"entries": ()}, "needs an entry"),
        ({"entries": (Entry("main", {"heads": 2}, ()),)}, "'heads'"),
        ({"levels": (LEVEL,)}, "the entry 'main' has the unknown level ''"),
        ({"levels": (LEVEL,) * 2}, "the level 'base' is given twice"),
        (
            {"levels": (LEVEL,), "entries": (Entry("main", {}, (), "other"),)},
            "the entry 'main' has the unknown level 'other'",
        ),
        (
            {"levels": (LEVEL, replace(LEVEL, name="avx9")),
             "entries": (Entry("main", {}, (), "base"),)},
            "the level 'avx9' has no entry",
        ),
        ({"inputs": (TensorSpec("x", ("rows",), "float32"),)}, "'rows'"),
        ({"inputs": (TensorSpec("x", (4,), "float33"),)}, "'float33'"),
        ({"inputs": (TensorSpec("x", (-4,), "int8"),)}, "negative"),
        ({"outputs": (TensorSpec("y", (4,), "int8"),) * 2}, "'y' is given twice"),
    ],
)
def test_parts_that_contradict_one_another_are_refused(change, word):
    with pytest.raises(BadBundle, match=word):
        replace(tiny_manifest(), **change)


def test_a_target_is_described_by_what_its_code_needs():
    record = TargetRecord("pixel8", "aarch64", "android", ("dotprod", "i8mm"))
    assert str(record) == "aarch64 android (needs dotprod, i8mm)"
