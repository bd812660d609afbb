"""Which compiler builds the runtime for Android, with folders that stand in for Google's NDK."""

import os
import subprocess
from dataclasses import replace

import pytest
from elftools.elf.elffile import ELFFile

from pocketformer import runtime
from pocketformer.compiler.errors import BuildFailed
from pocketformer.runtime import sources, toolchain
from pocketformer.runtime.objects import Compiler, Object
from tests.runtime.ndk import stand_in_ndk

FOREIGN_CLANG = b"\xcf\xfa\xed\xfe"    # how a program of macOS begins
SYSTEM_HEADERS = ("<sys/", "<net", "<unistd.h>", "<sched.h>", "<dlfcn.h>", "<fcntl.h>", "<poll.h>")


@pytest.fixture
def ndk(tmp_path, monkeypatch):
    """The folder that ANDROID_NDK_HOME names; there is nothing in it."""
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    return tmp_path / "ndk"


def foreign_ndk(folder):
    """An NDK for macOS; returns the folder of its headers and libraries, which is still missing."""
    prebuilt = folder / "toolchains/llvm/prebuilt/darwin-x86_64"
    (prebuilt / "bin").mkdir(parents=True)
    for name in ("clang", "clang++"):
        (prebuilt / "bin" / name).write_bytes(FOREIGN_CLANG)
        (prebuilt / "bin" / name).chmod(0o755)
    return prebuilt / "sysroot/usr"


def test_missing_ndk_names_the_variable(monkeypatch):
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    with pytest.raises(BuildFailed, match="set ANDROID_NDK_HOME to its folder"):
        runtime.build("arm64-android")


def test_folder_that_is_no_ndk_is_named(ndk):
    with pytest.raises(BuildFailed, match=f"ANDROID_NDK_HOME is {ndk}, where there is no"):
        runtime.build("arm64-android")


def test_ndk_for_another_machine_is_named(ndk):
    foreign_ndk(ndk)
    with pytest.raises(BuildFailed, match=r"bin/clang\+\+ cannot be run on this machine"):
        runtime.build("arm64-android")


def test_ndk_without_the_wanted_android_is_told(ndk):
    (foreign_ndk(ndk) / "include").mkdir(parents=True)
    with pytest.raises(BuildFailed, match="an NDK that knows Android API 21"):
        runtime.build("armv7-android")


@pytest.mark.parametrize(
    ("arch", "target"),
    [("aarch64", "aarch64-linux-android21"), ("arm", "armv7a-linux-androideabi21")],
)
def test_ndk_compiles_for_the_oldest_android(ndk, arch, target):
    stand_in_ndk(ndk)
    tools = toolchain.find(arch, "android", 21)
    binaries = ndk / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    assert tools.cxx == (str(binaries / "clang++"), f"--target={target}")
    assert tools.cc == (str(binaries / "clang"), f"--target={target}")
    assert tools.link == ("-static-libstdc++", "-Wl,-z,max-page-size=16384")
    assert "clang version" in tools.version


def test_our_sources_compile_without_glibc_for_32_bits(ndk, tmp_path):
    stand_in_ndk(ndk)
    tools = toolchain.find("arm", "android", 21)
    ours = [each for each in [*sources.library_sources(), *sources.device_sources()]
            if sources.HERE in each.path.parents
            and any(f"#include {name}" in each.path.read_text() for name in SYSTEM_HEADERS)]
    ours.append(sources.program_source("run/pocketformer_run.c"))
    assert len(ours) > 10
    quick = [replace(each, flags=(*each.flags, "-O0", "-Werror")) for each in ours]
    objects = [replace(each, path=tmp_path / each.path.name)
               for each in (Object.of(source, tools) for source in quick)]
    (tmp_path / "scratch").mkdir()
    Compiler(tools, tmp_path / "scratch").compile(objects, 2, lambda source, fraction: None)
    for each in objects:
        with each.path.open("rb") as file:
            elf = ELFFile(file)
            assert (elf["e_machine"], elf.elfclass) == ("EM_ARM", 32)


def test_zig_compiles_c_with_the_headers_of_a_foreign_ndk(ndk, tmp_path):
    system = foreign_ndk(ndk)
    (system / "include/aarch64-linux-android").mkdir(parents=True)
    (system / "include/where.h").write_text("enum { FROM_THE_NDK = 7 };\n")
    (system / "lib/aarch64-linux-android/21").mkdir(parents=True)
    source, made = tmp_path / "made.c", tmp_path / "made.o"
    source.write_text(
        "#include <where.h>\nint made[__ANDROID_API__ == 21 ? FROM_THE_NDK : -1] = {1};\n"
    )
    tools = toolchain.find("aarch64", "android", 21)
    environment = {**os.environ, **tools.environment}
    subprocess.run([*tools.cc, "-c", source, "-o", made], env=environment, check=True)
    with made.open("rb") as file:
        assert ELFFile(file)["e_machine"] == "EM_AARCH64"
