"""A bundle on the disk: whole after a save, or untouched; nothing damaged is loaded."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketformer import targets
from pocketformer.compiler import bundle as module
from pocketformer.compiler import replace as replacing
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.checksum import HashedFile
from pocketformer.compiler.compatibility import refuse_machine
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.machine import Machine, this_machine
from pocketformer.compiler.manifest_records import TargetRecord
from pocketformer.compiler.session import Session
from tests.compiler.tiny import expected, inputs, one_sentence, tiny_manifest, tiny_weights

FILES = {"model.so", "weights.safetensors", "manifest.json"}


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_bundle_comes_back_as_it_was_saved(bundle, saved):
    assert names(saved) == FILES
    loaded = Bundle.load(saved)
    assert replace(loaded.manifest, files={}) == bundle.manifest
    assert loaded.library.read_bytes() == bundle.library.read_bytes()
    assert loaded.weights.keys() == bundle.weights.keys()
    for name, array in bundle.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], array)
    loaded.verify()


def test_a_loaded_bundle_can_be_saved_over_itself(saved):
    before = Bundle.load(saved)
    before.save(saved)
    Bundle.load(saved).verify()
    np.testing.assert_array_equal(before.weights["w"], tiny_weights()["w"])


def test_weights_are_mapped_and_aligned(saved):
    weights = Bundle.load(saved).weights
    base = {id(array.base.base) for array in weights.values()}
    assert len(base) == 1                                   # one mapping under them all
    assert all(array.ctypes.data % 64 == 0 for array in weights.values())


def test_writing_to_a_mapped_weight_leaves_the_file_alone(saved):
    Bundle.load(saved).weights["w"][:] = 0
    np.testing.assert_array_equal(Bundle.load(saved).weights["w"], tiny_weights()["w"])


def test_a_library_can_be_given_as_bytes(tiny_library):
    made = Bundle.create(tiny_library.read_bytes(), tiny_weights(), tiny_manifest())
    assert made.library.read_bytes() == tiny_library.read_bytes()


def test_an_unsaved_bundle_leaves_no_file_behind(tiny_library):
    made = Bundle.create(tiny_library, tiny_weights(), tiny_manifest())
    library = made.library
    assert library.exists()
    del made
    assert not library.parent.exists()


def test_a_weight_that_an_entry_lacks_is_named(tiny_library):
    with pytest.raises(BadBundle, match="'w'") as error:
        Bundle.create(tiny_library, {"c": tiny_weights()["c"]}, tiny_manifest())
    one_sentence(error)


# Saving

def test_something_else_than_a_bundle_is_not_replaced(bundle, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("...")
    (tmp_path / "note").write_text("...")
    for place in ("thesis", "note"):
        with pytest.raises(BadBundle, match="is no bundle") as error:
            bundle.save(tmp_path / place)
        one_sentence(error)
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_a_link_to_a_bundle_stays_a_link(bundle, saved, tmp_path):
    (tmp_path / "newest.pf").symlink_to(saved)
    bundle.save(tmp_path / "newest.pf")
    assert (tmp_path / "newest.pf").is_symlink()
    Bundle.load(tmp_path / "newest.pf").verify()


def test_missing_parents_are_made(bundle, tmp_path):
    bundle.save(tmp_path / "a" / "b" / "tiny.pf")
    assert names(tmp_path / "a" / "b" / "tiny.pf") == FILES


@pytest.mark.parametrize(("file", "room"), [
    ("model.so", 0), ("model.so", 1000), ("weights.safetensors", 100),
])
def test_a_full_disk_leaves_the_old_bundle_whole(file, room, bundle, saved, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    left = room if file == "model.so" else len(before["model.so"]) + room
    write = HashedFile.write

    def limited(self, data):
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(module, "_PIECE", 1000)
    monkeypatch.setattr(HashedFile, "write", limited)
    with pytest.raises(BadBundle, match=r"No space left on device; .* unchanged") as error:
        bundle.save(saved)
    one_sentence(error)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert names(saved.parent) == {saved.name}
    with pytest.raises(BadBundle, match=r"No space left on device$"):
        bundle.save(saved.with_name("other.pf"))
    assert names(saved.parent) == {saved.name}


def test_an_interrupted_save_leaves_no_trace(bundle, saved, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(replacing, "_exchange", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bundle.save(saved)
    assert names(saved.parent) == {saved.name}
    Bundle.load(saved).verify()


SAVE_AND_STOP = """
import sys, time
import numpy as np
from pocketformer.compiler import bundle, replace
from pocketformer.compiler.bundle import Bundle

def stop(*_, **__):
    print("here", flush=True)
    time.sleep(60)

old = Bundle.load(sys.argv[1])
new = Bundle.create(old.library, {k: 2 * w for k, w in old.weights.items()}, old.manifest)
owner = {"write_weights": bundle, "rmtree": replace.shutil}.get(sys.argv[2], replace)
setattr(owner, sys.argv[2], stop)
new.save(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("stage", "factor"), [("write_weights", 1), ("_flush", 1), ("_exchange", 1), ("rmtree", 2)]
)
def test_a_killed_save_leaves_a_whole_bundle(stage, factor, bundle, saved, monkeypatch):
    command = [sys.executable, "-c", SAVE_AND_STOP, str(saved), stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    found = Bundle.load(saved)
    found.verify()
    np.testing.assert_array_equal(found.weights["w"], factor * tiny_weights()["w"])
    assert len(names(saved.parent)) == 2                    # what a killed process cannot remove
    monkeypatch.setattr(replacing, "_FRESH", 0.0)
    bundle.save(saved)
    assert names(saved.parent) == {saved.name}


def test_a_save_in_progress_is_not_swept_away(bundle, saved, monkeypatch):
    monkeypatch.setattr(replacing, "_FRESH", 0.0)
    with replacing.replacing_folder(saved) as first:
        (first / "model.so").write_bytes(b"")
        with replacing.replacing_folder(saved) as second:
            (second / "model.so").write_bytes(b"2")
        assert first.exists()
    assert names(saved) == {"model.so"}


def test_a_file_system_without_exchange_still_gets_the_new_bundle(bundle, saved, monkeypatch):
    monkeypatch.setattr(replacing, "_exchange_at_once", lambda new, place: False)
    bundle.save(saved)
    Bundle.load(saved).verify()
    assert names(saved.parent) == {saved.name}


# Loading

@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(name, saved):
    (saved / name).unlink()
    with pytest.raises(BadBundle, match=name) as error:
        Bundle.load(saved)
    one_sentence(error)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_byte_is_noticed(name, saved):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(BadBundle, match=name) as error:
        Bundle.load(saved)
    one_sentence(error)


@pytest.mark.parametrize("name", ["model.so", "weights.safetensors"])
@pytest.mark.parametrize(("change", "word"), [(-1, "truncated"), (1, "too long")])
def test_another_length_is_noticed(name, change, word, saved):
    os.truncate(saved / name, (saved / name).stat().st_size + change)
    with pytest.raises(BadBundle, match=word) as error:
        Bundle.load(saved)
    assert name in one_sentence(error)


def test_a_file_that_grows_only_after_the_load_is_found_by_verify(saved):
    loaded = Bundle.load(saved)
    os.truncate(saved / "weights.safetensors", 1 << 20)
    with pytest.raises(BadBundle, match="too long"):
        loaded.verify()


def test_verify_notices_another_bundle_in_its_place(saved, tiny_library):
    loaded = Bundle.load(saved)
    other = replace(tiny_manifest(), name="other")
    Bundle.create(tiny_library, tiny_weights(), other).save(saved)
    with pytest.raises(BadBundle, match="another bundle"):
        loaded.verify()


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_link_instead_of_a_file_is_refused(name, saved, tmp_path):
    (saved / name).rename(tmp_path / "elsewhere")
    (saved / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadBundle, match="link") as error:
        Bundle.load(saved)
    one_sentence(error)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_pipe_instead_of_a_file_is_refused(name, saved):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(BadBundle, match="no regular file"):
        Bundle.load(saved)


def test_what_is_no_folder_is_refused(tmp_path, saved):
    with pytest.raises(BadBundle, match="does not exist"):
        Bundle.load(tmp_path / "nothing.pf")
    with pytest.raises(BadBundle, match="is a file"):
        Bundle.load(saved / "model.so")
    with pytest.raises(BadBundle, match=r"has no manifest\.json"):
        Bundle.load(tmp_path)


def test_weights_of_another_bundle_are_refused(saved, tiny_library, tmp_path):
    others = {name: array + 1 for name, array in tiny_weights().items()}
    Bundle.create(tiny_library, others, tiny_manifest()).save(tmp_path / "other.pf")
    shutil.copy(tmp_path / "other.pf" / "weights.safetensors", saved)
    with pytest.raises(BadBundle, match=r"weights\.safetensors was changed"):
        Bundle.load(saved)


# Other machines

PIXEL8 = (
    "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop "
    "sha3 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm sb paca pacg sve2 svebitperm i8mm bf16"
)

HERE = Machine("x86_64", "linux", frozenset({"sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c"}))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            TargetRecord("pixel8", "aarch64", "android", ("dotprod",)),
            "the bundle was compiled for aarch64 android (needs dotprod), "
            "this machine is x86_64 linux",
        ),
        (
            TargetRecord("android-x86", "x86_64", "android"),
            "the bundle was compiled for x86_64 android, this machine is x86_64 linux",
        ),
        (
            TargetRecord("host", "x86_64", "linux", ("avx2", "avx512f", "avx512vnni")),
            "the bundle was compiled for x86_64 linux (needs avx2, avx512f, avx512vnni), "
            "this machine's processor lacks avx512f, avx512vnni",
        ),
        (
            TargetRecord("host", "x86_64", "linux", ("avx2",), ("avx2", "f16c", "sse4.2", "bmi2")),
            "the bundle was compiled for x86_64 linux (needs avx2), "
            "this machine's processor lacks bmi2",
        ),
    ],
    ids=["architecture", "system", "instructions", "features"],
)
def test_a_bundle_for_another_machine_is_refused(target, message):
    with pytest.raises(BadBundle) as error:
        refuse_machine(replace(tiny_manifest(), target=target), HERE)
    assert one_sentence(error) == message


def test_what_a_machine_does_not_tell_is_not_held_against_it():
    target = TargetRecord("host", "x86_64", "linux", ("avx2",), ("bmi2",))
    refuse_machine(replace(tiny_manifest(), target=target), Machine("x86_64", "linux"))


@pytest.mark.parametrize("name", ["host", "pixel8"])
def test_a_target_leaves_all_that_a_machine_must_have(name):
    target = targets.load(name)
    record = TargetRecord.of(target)
    assert set(record.isa) == target.isa
    assert {"host": "sse4.2", "pixel8": "dotprod"}[name] in record.features
    manifest = replace(tiny_manifest(), target=record)
    if name == "host":
        refuse_machine(manifest)
    else:
        refuse_machine(manifest, Machine("aarch64", "android", frozenset(PIXEL8.split())))
        words = frozenset(PIXEL8.split()) - {"atomics"}
        with pytest.raises(BadBundle, match="lacks lse"):
            refuse_machine(manifest, Machine("aarch64", "android", words))


def elsewhere(tiny_library: Path, **changes: object) -> Bundle:
    return Bundle.create(tiny_library, tiny_weights(), replace(tiny_manifest(), **changes))


def test_another_tvm_is_refused(tiny_library, tmp_path):
    elsewhere(tiny_library, tvm_version="0.26.0").save(tmp_path / "old.pf")
    with pytest.raises(BadBundle, match=r"TVM 0\.26\.0, installed is 0\.27\.0") as error:
        Bundle.load(tmp_path / "old.pf")
    one_sentence(error)


def test_a_bundle_for_another_machine_can_be_inspected_but_not_run(tiny_library, tmp_path):
    target = TargetRecord("pixel8", "aarch64", "android", ("dotprod",))
    elsewhere(tiny_library, target=target).save(tmp_path / "phone.pf")
    with pytest.raises(BadBundle, match="aarch64 android"):
        Bundle.load(tmp_path / "phone.pf")
    phone = Bundle.load(tmp_path / "phone.pf", check_machine=False)
    assert phone.manifest.target == target
    phone.verify()
    with pytest.raises(BadBundle, match="aarch64 android"):
        Session(phone)


def test_a_bundle_for_this_machine_and_its_instructions_runs(tiny_library, tmp_path):
    here = this_machine()
    target = TargetRecord("host", here.arch, here.os, tuple(sorted(here.isa or ())))
    elsewhere(tiny_library, target=target).save(tmp_path / "here.pf")
    given = inputs()
    found = Session(tmp_path / "here.pf").run(given)["hidden"]
    np.testing.assert_allclose(found, expected(**given), rtol=1e-5, atol=1e-5)


# Without a file of weights

def test_a_bundle_with_embedded_weights_has_two_files(embedded_library, tmp_path):
    made = Bundle.create(embedded_library, {}, tiny_manifest(embedded=True))
    made.save(tmp_path / "one.pf")
    assert names(tmp_path / "one.pf") == {"model.so", "manifest.json"}
    assert json.loads((tmp_path / "one.pf" / "manifest.json").read_text())["weights"] is None
    loaded = Bundle.load(tmp_path / "one.pf")
    loaded.verify()
    given = inputs()
    found = Session(loaded).run(given)["hidden"]
    np.testing.assert_allclose(found, expected(**given), rtol=1e-5, atol=1e-5)
