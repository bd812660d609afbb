"""Levels: code for newer processors beside the base, and the choice of the last one that runs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pocketformer as pf
from pocketformer.compiler.cli import app
from pocketformer.compiler.compatibility import choose_level
from pocketformer.compiler.errors import BadInput
from pocketformer.compiler.link import Linker
from pocketformer.compiler.machine import Machine
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import Entry, LevelRecord, TargetRecord
from pocketformer.compiler.object_code import read_object
from tests.compiler.tiny import one_sentence, tiny_manifest
from tests.encoder import encoder, inputs
from tests.numerics.check import assert_close, reference

LEVELS = (
    LevelRecord("base", ("neon",), ("neon",), "cortex-a72", 128, 5, 100, 0),
    LevelRecord("dotprod", ("dotprod", "neon"), ("lse",), "cortex-a76", 128, 3, 100, 0),
    LevelRecord("bf16", ("bf16", "dotprod", "neon"), ("lse", "bf16"), "cortex-a710", 128, 2, 9, 0),
)


def with_levels() -> Manifest:
    entries = tuple(Entry(f"main__{level.name}", {}, (), level.name) for level in LEVELS)
    target = TargetRecord("arm64-linux", "aarch64", "linux", ("neon",))
    return replace(tiny_manifest(), target=target, levels=LEVELS, entries=entries)


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ("asimd", "base"),
        ("asimd asimddp", "base"),              # without lse, which the level needs as well
        ("asimd asimddp atomics", "dotprod"),
        ("asimd asimddp atomics i8mm", "dotprod"),
        ("asimd asimddp atomics i8mm bf16", "bf16"),
        ("", "base"),
    ],
)
def test_the_last_level_that_a_processor_can_is_chosen(words, level, monkeypatch):
    monkeypatch.delenv("POCKETFORMER_LEVEL", raising=False)
    machine = Machine("aarch64", "linux", frozenset(words.split()))
    assert choose_level(with_levels(), machine) == level
    assert choose_level(tiny_manifest(), machine) == ""


def test_a_machine_that_tells_nothing_gets_the_base():
    assert choose_level(with_levels(), Machine("aarch64", "linux")) == "base"


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ("base", "base"),
        ("dotprod", "dotprod"),
        ("", "dotprod"),
        ("bf16", "POCKETFORMER_LEVEL is 'bf16', this machine's processor lacks bf16"),
        ("sve", "POCKETFORMER_LEVEL is 'sve', the bundle has base, dotprod, bf16"),
    ],
)
def test_a_variable_chooses_another_level(wanted, answer, monkeypatch):
    monkeypatch.setenv("POCKETFORMER_LEVEL", wanted)
    machine = Machine("aarch64", "linux", frozenset({"asimd", "asimddp", "atomics"}))
    if " " not in answer:
        assert choose_level(with_levels(), machine) == answer
        return
    with pytest.raises(BadInput) as error:
        choose_level(with_levels(), machine)
    assert one_sentence(error) == answer


def test_a_bundle_of_one_level_is_the_base(monkeypatch):
    monkeypatch.setenv("POCKETFORMER_LEVEL", "base")
    assert choose_level(tiny_manifest()) == ""
    monkeypatch.setenv("POCKETFORMER_LEVEL", "avx512")
    with pytest.raises(BadInput) as error:
        choose_level(tiny_manifest())
    assert one_sentence(error) == "POCKETFORMER_LEVEL is 'avx512', the bundle has base"


# Compiled for a target with levels

PROTO = encoder()


LINKED: list[str] = []    # the kernels of `fat` in the order in which their files were linked


class NotingLinker(Linker):
    def __call__(self, output: str, objects: Sequence[str], **options: object) -> None:
        for path in objects:
            functions = read_object(Path(path)).functions
            LINKED.extend(name for name in functions if name.startswith("__tvm_ffi_"))
        super().__call__(output, objects, **options)


@pytest.fixture(scope="module")
def fat(tmp_path_factory: pytest.TempPathFactory) -> pf.Bundle:
    """For any x86-64, with buckets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketformer.compiler.assemble.Linker", NotingLinker)
        made = pf.compile(PROTO, "x86_64-linux", dims={"seq": "8,16"})
    path = tmp_path_factory.mktemp("fat") / "fat.pf"
    made.save(path)
    return pf.Bundle.load(path)


@pytest.mark.parametrize("level", ["base", "avx512"])
@pytest.mark.parametrize("seq", [8, 11])
def test_every_level_computes_the_same(fat, level, seq, monkeypatch):
    if level not in ("base", choose_level(fat.manifest)):
        pytest.skip(f"this machine cannot run {level}")
    monkeypatch.setenv("POCKETFORMER_LEVEL", level)
    session, given = pf.Session(fat), inputs(1, seq)
    assert session.level == level
    assert_close(list(session.run(given).values()), reference(PROTO, given))
    ran = [name for name, _, _ in session.profile(given, 1)[0] if name.startswith("f32_")]
    assert len(ran) == 7
    assert all(("avx512" in name) == (level == "avx512") for name in ran)


def test_a_level_that_differs_in_nothing_is_left_out(fat):
    assert [level.name for level in fat.manifest.levels] == ["base", "avx512"]
    phone = pf.compile(encoder(seq=8), "arm64-android").manifest
    assert phone.levels == ()
    assert [entry.level for entry in phone.entries] == [""]


def test_a_machine_without_avx512_runs_the_base(fat):
    words = "avx avx2 bmi1 bmi2 f16c fma abm movbe popcnt sse4_1 sse4_2"
    old = Machine("x86_64", "linux", frozenset(words.split()))
    assert choose_level(fat.manifest, old) == "base"


def test_what_levels_share_is_there_once(fat):
    entries = {entry.function: set(entry.weights) for entry in fat.manifest.entries}
    assert "table" in entries["main"] & entries["main__avx512"]
    base, above = fat.manifest.levels
    assert base.weight_bytes + above.weight_bytes == fat.manifest.weights.bytes
    called = {(record.entry, record.function) for record in fat.manifest.kernels}
    assert ("main", "fused_cast_subtract_multiply") in called
    assert ("main__avx512", "fused_cast_subtract_multiply") in called    # of unknown length: equal


@pytest.mark.parametrize("recipe", [pf.Int8(dynamic=True), pf.BFloat16()], ids=["int8", "bf16"])
def test_short_weights_are_there_once_for_all_levels_of_a_phone(recipe):
    manifest = pf.compile(encoder(seq=8), "arm64-android", recipe=recipe).manifest
    base, *above = manifest.levels
    assert above[-1].kernels > 0
    assert base.weight_bytes == manifest.weights.bytes
    assert [level.weight_bytes for level in above] == [0] * len(above)


def test_the_size_of_each_level_is_told(fat):
    base, above = fat.manifest.levels
    assert 0 < above.kernels < base.kernels
    size = fat.library.stat().st_size
    assert 0.7 * size < base.code_bytes + above.code_bytes < size


def test_the_base_is_linked_first(fat):
    above = [name.endswith("__avx512") for name in LINKED]
    assert above == sorted(above)
    assert set(above) == {False, True}


def test_embedded_weights_of_several_levels_run(monkeypatch):
    proto = encoder(seq=8)
    bundle = pf.compile(proto, "x86_64-linux", embed_weights=True)
    given = inputs(1, 8)
    for level in ("base", choose_level(bundle.manifest)):
        monkeypatch.setenv("POCKETFORMER_LEVEL", level)
        assert_close(list(pf.Session(bundle).run(given).values()), reference(proto, given))


def test_a_profile_is_of_the_level_that_runs(fat, monkeypatch):
    monkeypatch.setenv("POCKETFORMER_LEVEL", "base")
    found = pf.profile(fat, inputs(1, 8), runs=1, threads=1)
    assert found.entry == "main_seq_8"
    assert found.unattributed_ms == 0


def test_inspect_shows_what_each_level_costs(fat):
    shown = CliRunner().invoke(app, ["inspect", str(fat.path)]).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("avx512 ")]
    assert "+ avx512f" in line
    assert "kB" in line
    assert "any other size, seq=8, seq=16" in shown
    record = json.loads(CliRunner().invoke(app, ["inspect", str(fat.path), "--json"]).stdout)
    assert [level["name"] for level in record["levels"]] == ["base", "avx512"]
