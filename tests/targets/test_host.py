"""The host target is this machine as the kernel shows it, not as LLVM's model of its processor."""

import os
import platform

import pytest

from pocketformer import targets
from pocketformer.compiler.errors import UnknownTarget
from pocketformer.targets import host
from pocketformer.targets.llvm import features, instruction_sets

ZEN4 = features("x86_64-linux-gnu", "znver4")
ZEN4_WORDS = frozenset(
    word for feature, word in host.WORDS["x86_64"].items() if feature in ZEN4
)


def test_host_is_this_machine():
    target = targets.load("host")
    assert target.arch == platform.machine()
    assert 1 <= target.threads <= len(os.sched_getaffinity(0))
    assert target.l1d >= 16 * 1024


def test_a_processor_like_its_model_needs_no_features():
    assert host._differences("x86_64", ZEN4, ZEN4_WORDS) == ()


def test_features_that_a_virtual_machine_hides_are_taken_away():
    hidden = frozenset(word for word in ZEN4_WORDS if word.startswith("avx512"))
    mattr = host._differences("x86_64", ZEN4, ZEN4_WORDS - hidden)
    isa = instruction_sets("x86_64", features("x86_64-linux-gnu", "znver4", mattr))
    assert isa == {"sse4", "avx", "avx2", "fma"}


def test_features_that_a_model_lacks_are_added():
    plain = features("x86_64-linux-gnu", "x86-64")
    mattr = host._differences("x86_64", plain, frozenset({"avx", "avx2", "fma"}))
    assert mattr == ("+avx", "+avx2", "+fma")


def test_every_feature_that_host_may_name_is_one_of_llvm():
    for arch, triple in (("x86_64", "x86_64-linux-gnu"), ("aarch64", "aarch64-linux-gnu")):
        for feature in host.WORDS[arch]:
            assert feature in features(triple, "generic", (f"+{feature}",)), feature


def test_512_bit_vectors_are_used_where_llvm_would_avoid_them():
    model = features("x86_64-linux-gnu", "skylake-avx512")
    words = frozenset(word for name, word in host.WORDS["x86_64"].items() if name in model)
    assert host._differences("x86_64", model, words) == ("-prefer-256-bit",)


def test_only_features_of_all_cores_count(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("Features\t: asimd asimddp\n\nFeatures\t: asimd i8mm\n")
    assert host._words(cpuinfo) == {"asimd"}


def test_caches_and_cores_come_from_sysfs(tmp_path, monkeypatch):
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K")]
    ):
        folder = tmp_path / "cpu0" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert host._caches(tmp_path) == {1: 48 * 1024, 2: 2048 * 1024}
    assert host._physical_cores(tmp_path) == 2


def test_a_system_that_tells_nothing_still_gives_a_target(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "SYSTEM_CPUS", tmp_path)
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "none")
    target = host.detect()
    assert (target.l1d, target.l2, target.l3) == (host.L1D, host.L2, 0)
    assert target.threads == len(os.sched_getaffinity(0))


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(UnknownTarget, match="needs Linux on x86-64 or 64-bit ARM, this is darwin"):
        host.detect()
