"""Every target is what LLVM knows, and a name or a device file that is wrong is refused."""

import subprocess
import sys

import pytest

from pocketformer import targets
from pocketformer.compiler.errors import BadTarget, UnknownTarget
from pocketformer.targets.llvm import features

DEVICES = [name for name in targets.available() if name != "host"]
V8_2 = {"neon", "dotprod", "fp16"}
V9 = V8_2 | {"i8mm"}
# What each device is known to run, written down apart from the device files.
KNOWN = {
    "x86_64-linux": {"sse4", "avx", "avx2", "fma"},
    "arm64-linux": {"neon"},
    "arm64-android": {"neon"},
    "armv7-android": {"neon"},
    "pixel6": V8_2,
    "pixel8": V9,
    "galaxys21": V8_2,
    "galaxys24": V9 | {"bf16"},
    "snapdragon8gen2": V9,
    "snapdragon8gen3": V9 | {"bf16"},
    "dimensity9300": V9 | {"bf16"},
    "raspberrypi4": {"neon"},
    "raspberrypi5": V8_2,
}
X86 = {"sse4", "avx", "avx2", "fma", "avx512f"}
ARM_LEVELS = {
    "base": {"neon"}, "dotprod": V8_2, "i8mm": V9, "bf16": V9 | {"bf16"},
}
LEVELS = {
    "arm64-android": ARM_LEVELS,
    "arm64-linux": ARM_LEVELS,
    "x86_64-linux": {
        "base": KNOWN["x86_64-linux"],
        "avx512": X86,
        "avx512vnni": X86 | {"avx512vnni"},
        "avx512bf16": X86 | {"avx512vnni", "avx512bf16"},
    },
}
# Features beyond those of Target.isa that let LLVM choose other instructions for plain code.
CHOSEN_BY_LLVM = {"lse", "rdm", "rcpc", "fp16fml", "complxnum", "jsconv", "aes", "sha2", "sha3",
                  "crc", "sme", "mops", "cssc", "hwdiv", "hwdiv-arm", "vfp4", "f16c", "bmi2"}

GOOD = """
description = "a phone"
arch = "aarch64"
os = "android"
mcpu = "cortex-a76"
isa = ["neon", "dotprod", "fp16"]
android_api = 30

[[cores]]
name = "big"
count = 4
mcpu = "cortex-a76"
l1d_kib = 64
l2_kib = 512
max_ghz = 2
"""


def load_file(tmp_path, text):
    path = tmp_path / "phone.toml"
    path.write_text(text)
    return targets.load(str(path))


def test_every_target_that_was_promised_is_there():
    assert set(DEVICES) == set(KNOWN)


@pytest.mark.parametrize("name", DEVICES)
def test_llvm_agrees_with_a_device_file(name):
    target = targets.load(name)          # asks LLVM about processors, features and isa
    assert target.isa == KNOWN[name]
    assert target.name == name


@pytest.mark.parametrize("name", DEVICES)
def test_code_for_the_big_core_runs_on_every_core(name):
    target = targets.load(name)
    enabled = features(target.triple, target.mcpu, target.mattr) & CHOSEN_BY_LLVM
    for cluster in target.cores:
        assert enabled <= features(target.triple, cluster.mcpu), cluster.name


@pytest.mark.parametrize("name", DEVICES)
def test_every_level_is_a_target_of_its_own(name):
    target = targets.load(name)
    known = LEVELS.get(name, {"base": KNOWN[name]})
    assert {each.level: each.isa for each in target.variants} == known
    assert not any(each.levels for each in target.variants)
    assert target.variants[0].mcpu == target.mcpu


def test_a_level_of_arm_asks_for_nothing_that_a_core_may_leave_out():
    for variant in targets.load("arm64-android").variants[1:]:
        assert not {"aes", "sha2", "sve", "rcpc"} & features(
            variant.triple, variant.mcpu, variant.mattr)


@pytest.mark.parametrize("name", targets.available())
def test_facts_are_plausible(name):
    target = targets.load(name)
    assert 16 * 1024 <= target.l1d <= target.l2 <= 4 << 20
    assert 1 <= target.threads <= sum(cluster.count for cluster in target.cores)
    assert (target.android_api is not None) == (target.os == "android")
    lanes = {"arm": (128, 16), "aarch64": (128, 32)}.get(target.arch)
    assert lanes is None or lanes == (target.vector_bits, target.vector_registers)


@pytest.mark.parametrize("name", targets.available())
def test_tvm_gets_the_processor_and_features(name):
    target = targets.load(name)
    attrs = target.tvm().attrs
    assert attrs["mcpu"] == target.mcpu
    assert attrs["mtriple"] == target.triple
    assert tuple(attrs.get("mattr", ())) == target.mattr
    assert attrs["num-cores"] == target.threads


def test_little_cores_get_no_thread_by_default():
    assert targets.load("pixel8").threads == 5


def test_cpu_may_be_named_and_gpu_is_refused():
    assert targets.load("pixel8/cpu") == targets.load("pixel8")
    with pytest.raises(UnknownTarget, match="only its CPU can be compiled for: pixel8/cpu"):
        targets.load("pixel8/gpu")


def test_unknown_target_lists_near_names():
    with pytest.raises(UnknownTarget) as caught:
        targets.load("pixel9x")
    assert str(caught.value) == (
        "no target 'pixel9x'; near: pixel8, pixel6; `pocketformer targets` lists all"
    )


def test_unknown_target_without_a_near_name_says_where_the_list_is():
    with pytest.raises(UnknownTarget, match=r"^no target 'qqq'; `pocketformer targets` lists all$"):
        targets.load("qqq")


def test_names_are_listed_without_importing_tvm():
    code = "import sys; from pocketformer import targets; targets.available(); "
    code += "sys.exit('tvm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_to_a_device_file_is_a_target(tmp_path):
    target = load_file(tmp_path, GOOD)
    assert (target.name, target.l2, target.android_api) == ("phone", 512 * 1024, 30)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('mcpu = "cortex-a76"\nisa', 'mcpu = "cortex-a760"\nisa', "no processor 'cortex-a760'"),
        ('mcpu = "cortex-a76"\nl1d', 'mcpu = "x76"\nl1d', "no processor 'x76' for aarch64"),
        ('"fp16"]', '"fp16", "i8mm"]', "isa is dotprod, fp16, i8mm, neon, but LLVM's cortex-a76"),
        ('"fp16"]', "]", "with mattr has dotprod, fp16, neon"),
        ("isa", 'mattr = ["+bogus"]\nisa', r"'\+bogus' in mattr does nothing"),
        ("isa", 'mattr = ["-i8mm"]\nisa', "'-i8mm' in mattr does nothing"),
        ("isa", 'mattr = ["sve"]\nisa', "'sve' in mattr does nothing"),
        ('mcpu = "cortex-a76"\nl1d', 'mcpu = "cortex-a72"\nl1d', "cortex-a72 cores have no dotp"),
        ("mcpu", "mcpus", r"phone\.toml: unknown key 'mcpus'; did you mean 'mcpu'"),
        ("l2_kib = 512\n", "", r"phone\.toml, \[\[cores\]\] 1: the key 'l2_kib' is missing"),
        ("count = 4", "count = -4", "'count' must be a whole number of at least 0, not -4"),
        ("count = 4", 'count = "4"', "'count' must be a whole number of at least 0, not '4'"),
        ("max_ghz = 2", "max_ghz = true", "'max_ghz' must be a number"),
        ('isa = ["neon"', 'isa = [1, "neon"', "'isa' must be a list of texts"),
        ('"android"', '"windows"', "aarch64 windows is no platform; known are x86_64 linux"),
        ("android_api = 30\n", "", "'android_api' belongs to Android"),
        ("[[cores]]", "[phone]", "unknown key 'phone'"),
        ("[[cores]]", "[cores]", r"at least one \[\[cores\]\] table"),
        ("arch", "arch = ", r"phone\.toml is not TOML"),
        ("android_api", "levels = 3\nandroid_api", r"the levels are written as \[\[levels\]\]"),
    ],
)
def test_a_wrong_device_file_is_refused_by_load(tmp_path, old, new, complaint):
    assert old in GOOD
    with pytest.raises(BadTarget, match=complaint):
        load_file(tmp_path, GOOD.replace(old, new, 1))


LEVEL = """
[[levels]]
name = "i8mm"
mcpu = "cortex-a710"
mattr = ["+aes", "+sha2", "-bf16", "-sve"]
isa = ["neon", "dotprod", "fp16", "i8mm"]
"""


def test_a_device_file_may_have_levels(tmp_path):
    base, level = load_file(tmp_path, GOOD + LEVEL).variants
    assert (base.level, level.level, level.mcpu) == ("base", "i8mm", "cortex-a710")
    assert level.cores[0].l2 == base.cores[0].l2


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"i8mm"\nmcpu', '"base"\nmcpu', "two levels are called 'base'"),
        ('"i8mm"\nmcpu', '"I8MM"\nmcpu', "'I8MM' is no name"),
        ("mattr", "mattrs", r"phone\.toml, \[\[levels\]\] 1: unknown key 'mattrs'"),
        ("cortex-a710", "cortex-a7100", "level i8mm: LLVM knows no processor 'cortex-a7100'"),
        (', "i8mm"]', "]", "target phone, level i8mm: isa is dotprod, fp16, neon, but LLVM's"),
        ('"-sve"]', '"-sve", "-rdm"]', "level i8mm: it lacks rdm, which the level before it has"),
    ],
)
def test_a_wrong_level_is_refused_by_load(tmp_path, old, new, complaint):
    assert old in LEVEL
    with pytest.raises(BadTarget, match=complaint):
        load_file(tmp_path, GOOD + LEVEL.replace(old, new, 1))


def test_a_missing_device_file_is_refused(tmp_path):
    with pytest.raises(BadTarget, match="cannot be read: No such file"):
        targets.load(str(tmp_path / "none.toml"))
