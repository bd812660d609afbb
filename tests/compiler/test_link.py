"""What is linked can be loaded: ELF headers per target, this machine's library run, bad input."""

import ctypes
import math
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import tvm
from elftools.elf.elffile import ELFFile
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from pocketformer import targets
from pocketformer.compiler.errors import BuildFailed, LinkFailed
from pocketformer.compiler.link import Linker, link
from pocketformer.compiler.pool import pool_objects
from pocketformer.compiler.system_libraries import LIBRARIES, undefined_symbols

TARGETS = ["x86_64-linux", "arm64-linux", "arm64-android", "armv7-android", "pixel8", "host"]
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64", "arm": "EM_ARM"}
NEEDED = {
    "linux": {"libm.so.6", "libc.so.6"},
    "android": {"libpocketformer_runtime.so", "libm.so", "libc.so"},
}
# Where the symbols that the model below uses are, told apart from the tables of the linker.
PROVIDER = {
    "TVMFFIErrorSetRaisedFromCStrParts": "runtime",
    "erff": "libm", "expf": "libm", "powf": "libm", "__aeabi_f2lz": "libm",
    "__aeabi_l2f": "libc", "__aeabi_ldivmod": "libc",
}


@I.ir_module
class Everything:
    """Calls libm, divides 64-bit integers and runs in parallel."""

    @T.prim_func(s_tir=True)
    def double(a: T.handle, b: T.handle):
        T.func_attr({"global_symbol": "double"})
        n = T.int64()
        x = T.match_buffer(a, (T.int64(4), n))
        y = T.match_buffer(b, (T.int64(4), n))
        for i in T.parallel(T.int64(4)):
            for j in range(n):
                with T.sblock("double"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    y[vi, vj] = x[vi, vj] * T.float32(2)

    @R.function
    def main(x: R.Tensor((4, "n"), "float32")) -> R.Tuple(R.Tensor((4, "n"), "float32")):
        n = T.int64()
        cls = Everything
        with R.dataflow():
            y = R.power(R.erf(R.exp(x)), R.const(1.5, "float32"))
            whole = R.floor_divide(R.astype(x, "int64"), R.const(3, "int64"))
            z = R.add(y, R.astype(whole, "float32"))
            out = (R.call_tir(cls.double, (z,), out_ty=R.Tensor((4, n), "float32")),)
            R.output(out)
        return out


def expected(x):
    error = np.vectorize(math.erf)
    return 2 * (error(np.exp(x)) ** 1.5 + x.astype("int64") // 3)


def build(module, target):
    with target.tvm():
        return relax.build(module, target.tvm())


@pytest.fixture(scope="module", params=TARGETS)
def linked(request, tmp_path_factory):
    """A target, and the library of `Everything` for it."""
    target = targets.load(request.param)
    library = tmp_path_factory.mktemp(request.param) / "model.so"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ANDROID_NDK_HOME", raising=False)
        build(Everything, target).export_library(str(library), fcompile=Linker(target))
    return target, library


@pytest.fixture
def elf(linked):
    with linked[1].open("rb") as file:
        yield ELFFile(file)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The object files of `Everything` for arm64-android."""
    folder = tmp_path_factory.mktemp("objects")
    target = targets.load("arm64-android")
    build(Everything, target).export_library(
        "unused.so", fcompile=lambda output, paths, **_: None, workspace_dir=str(folder)
    )
    return sorted(folder.glob("*.o"))


@pytest.fixture
def android(monkeypatch):
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    return targets.load("arm64-android")


def dynamic(elf, tag):
    entries = elf.get_section_by_name(".dynamic").iter_tags()
    return [each for each in entries if each.entry.d_tag == tag]


def dynamic_symbols(elf):
    return list(elf.get_section_by_name(".dynsym").iter_symbols())[1:]


def test_machine_and_names(linked, elf):
    target, _ = linked
    assert elf["e_type"] == "ET_DYN"
    assert elf["e_machine"] == MACHINES[target.arch]
    assert [each.soname for each in dynamic(elf, "DT_SONAME")] == ["model.so"]
    assert {each.needed for each in dynamic(elf, "DT_NEEDED")} == NEEDED[target.os]


def test_segments_are_aligned_for_the_pages_of_the_system(linked, elf):
    page = {"android": 16384, "linux": 65536 if linked[0].arch == "aarch64" else 4096}
    loads = [each for each in elf.iter_segments() if each["p_type"] == "PT_LOAD"]
    assert loads
    for load in loads:
        assert load["p_align"] == page[linked[0].os]
        assert (load["p_vaddr"] - load["p_offset"]) % load["p_align"] == 0


def test_nothing_is_writable_and_executable(linked, elf):
    kinds = {each["p_type"]: each["p_flags"] for each in elf.iter_segments()}
    assert not kinds["PT_GNU_STACK"] & 1
    assert "PT_GNU_RELRO" in kinds
    assert dynamic(elf, "DT_FLAGS")[0].entry.d_val & 0x8      # BIND_NOW
    assert all(each["p_flags"] & 3 != 3 for each in elf.iter_segments())


def test_both_symbol_hashes_are_there(elf):
    assert dynamic(elf, "DT_HASH")
    assert dynamic(elf, "DT_GNU_HASH")


def test_every_undefined_symbol_is_in_a_needed_library(linked, elf):
    undefined = {
        each.name: each["st_info"]["bind"]
        for each in dynamic_symbols(elf)
        if each["st_shndx"] == "SHN_UNDEF"
    }
    needed = {each.needed for each in dynamic(elf, "DT_NEEDED")}
    assert {"expf", "erff", "powf"} <= undefined.keys()
    for name in undefined:
        library = PROVIDER[name]
        if library != "runtime" or linked[0].os == "android":
            assert any(library in soname for soname in needed), name


def test_no_symbol_asks_for_a_version_of_glibc(elf):
    assert elf.get_section_by_name(".gnu.version_r") is None


def test_debug_information_is_left_out(elf):
    assert not [each.name for each in elf.iter_sections() if each.name.startswith(".debug")]


def test_parallel_slots_are_there_for_the_loader_to_fill(elf):
    assert "__TVMBackendParallelLaunch" in {each.name for each in dynamic_symbols(elf)}


@pytest.mark.parametrize("linked", ["host", "x86_64-linux"], indirect=True)
def test_library_for_this_machine_runs(linked):
    here = targets.load("host")
    if linked[0].arch != here.arch or not linked[0].isa <= here.isa:
        pytest.skip("made for another machine")
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(linked[1])), tvm.cpu())
    x = np.linspace(-4, 4, 28, dtype="float32").reshape(4, 7)
    np.testing.assert_allclose(vm["main"](tvm.runtime.tensor(x))[0].numpy(), expected(x), rtol=1e-5)


@pytest.mark.parametrize(("name", "free"), [("arm64-linux", True), ("arm64-android", False)])
def test_register_x18_is_left_to_android(name, free):
    """It holds the shadow call stack there; LLVM keeps off it only if it understands the triple."""

    @T.prim_func(s_tir=True)
    def pressure(a: T.handle, b: T.handle):
        T.func_attr({"global_symbol": "pressure"})
        n, m, k, h = T.int64(), T.int64(), T.int64(), T.int64()
        x = T.match_buffer(a, (n, m, k, h), "int32")
        y = T.match_buffer(b, (h, k, m, n), "int32")
        for i, j, p, q in T.grid(n, m, k, h):
            y[q, p, j, i] = x[i, j, p, q] + x[i, j, p, q // 3]

    module = tvm.compile(pressure, target=targets.load(name).tvm())
    assert bool(re.search(r"\b[wx]18\b", module.mod.inspect_source("asm"))) == free


def test_symbols_said_to_be_in_glibc_are_there():
    process = ctypes.CDLL("libm.so.6")
    missing = [
        name
        for library in LIBRARIES["x86_64", "linux"]
        for name in library.symbols
        if not hasattr(process, name)
    ]
    assert missing == []


def test_half_floats_need_no_library_on_32_bit_arm(tmp_path, monkeypatch):
    @T.prim_func(s_tir=True)
    def halve(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float16")):
        T.func_attr({"global_symbol": "halve"})
        for i in range(4):
            b[i] = T.Cast("float16", a[i])

    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    target = targets.load("armv7-android")
    executable = tvm.compile(halve, target=target.tvm())
    executable.export_library(str(tmp_path / "model.so"), fcompile=Linker(target))
    with (tmp_path / "model.so").open("rb") as file:
        symbols = {each.name: each for each in dynamic_symbols(ELFFile(file))}
    alias, real = symbols["__gnu_f2h_ieee"], symbols["__truncsfhf2"]
    assert alias["st_value"] == real["st_value"] != 0
    assert alias["st_shndx"] != "SHN_UNDEF"


def test_unknown_symbol_is_named(android, tmp_path):
    @T.prim_func(s_tir=True)
    def calls(a: T.Buffer((4,), "float32")):
        T.func_attr({"global_symbol": "calls"})
        for i in range(4):
            a[i] = T.call_extern("float32", "no_such_function", a[i])

    executable = tvm.compile(calls, target=android.tvm())
    with pytest.raises(LinkFailed, match=r"android uses no_such_function, which neither libm"):
        executable.export_library(str(tmp_path / "model.so"), fcompile=Linker(android))
    assert list(tmp_path.iterdir()) == []


def test_a_module_without_kernels_links(tmp_path):
    @I.ir_module
    class Identity:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            return x

    target = targets.load("host")
    build(Identity, target).export_library(str(tmp_path / "m.so"), fcompile=Linker(target, "m.so"))
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "m.so")), tvm.cpu())
    assert vm["main"](tvm.runtime.tensor(np.ones(4, "float32"))).numpy().sum() == 4


def test_home_folder_is_left_alone(android, objects, tmp_path, monkeypatch):
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    link(objects, tmp_path / "model.so", android)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_failed_link_leaves_the_old_library(android, tmp_path):
    output = tmp_path / "model.so"
    output.write_text("old")
    (tmp_path / "bad.o").write_bytes(b"\x7fELF and no more")
    with pytest.raises(LinkFailed, match=r"bad\.o is no object file"):
        link([tmp_path / "bad.o"], output, android)
    assert output.read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.o", "model.so"]


def test_objects_of_another_machine_are_refused(objects, tmp_path):
    with pytest.raises(LinkFailed, match=r"model\.so for x86_64-linux failed: .*incompat"):
        link(objects, tmp_path / "model.so", targets.load("x86_64-linux"))


def test_a_missing_object_is_named(android, tmp_path):
    with pytest.raises(LinkFailed, match=r"cannot read the object file .*none\.o: No such file"):
        link([tmp_path / "none.o"], tmp_path / "model.so", android)


def test_a_folder_that_is_not_there_is_named(android, objects, tmp_path):
    with pytest.raises(LinkFailed, match=r"model\.so for arm64-android failed: .*No such file"):
        link(objects, tmp_path / "none" / "model.so", android)


def test_a_missing_linker_says_what_to_install(android, objects, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LinkFailed, match="pip install ziglang"):
        link(objects, tmp_path / "model.so", android)


def test_ndk_variable_that_points_nowhere(android, objects, tmp_path, monkeypatch):
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    with pytest.raises(LinkFailed, match=r"ANDROID_NDK_HOME is .*/ndk, where there is no toolch"):
        link(objects, tmp_path / "model.so", android)


def fake_ndk(folder, script):
    clang = folder / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin" / "clang"
    clang.parent.mkdir(parents=True)
    clang.write_text(f"#!/bin/sh\n{script}\n")
    clang.chmod(clang.stat().st_mode | stat.S_IXUSR)


def test_ndk_links_for_android(android, objects, tmp_path, monkeypatch):
    """A stand-in for clang: it writes its arguments, and keeps the runtime's stub."""
    fake_ndk(
        tmp_path,
        'for a; do case "$a" in *libpocketformer_runtime.so) cp "$a" "$STUB";; esac; done\n'
        'for a; do last=$a; done; printf "%s\\n" "$@" > "$last"',
    )
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    monkeypatch.setenv("STUB", str(tmp_path / "stub.so"))
    link(objects, tmp_path / "model.so", android)
    arguments = (tmp_path / "model.so").read_text().splitlines()
    assert "--target=aarch64-unknown-linux-android21" in arguments
    assert {"-shared", "-Wl,-soname=model.so", "-Wl,max-page-size=16384", "-lm"} <= set(arguments)
    assert {str(path) for path in objects} <= set(arguments)
    with (tmp_path / "stub.so").open("rb") as file:
        stub = ELFFile(file)
        assert dynamic(stub, "DT_SONAME")[0].soname == "libpocketformer_runtime.so"
        names = {each.name for each in dynamic_symbols(stub)}
    assert names == {name for name in undefined_symbols(objects) if name.startswith("TVM")}


def test_ndk_is_for_android_only(objects, tmp_path, monkeypatch):
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "none"))
    link(objects, tmp_path / "model.so", targets.load("arm64-linux"))
    assert os.path.getsize(tmp_path / "model.so") > 1000


def test_what_the_ndk_says_is_told(android, objects, tmp_path, monkeypatch):
    fake_ndk(tmp_path, "echo 'clang: error: version 99 is too new' >&2; exit 1")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(LinkFailed, match=r"failed: clang: error: version 99 is too new$"):
        link(objects, tmp_path / "model.so", android)
    assert not Path(tmp_path / "model.so").exists()


# Threads of its own

@pytest.mark.parametrize("name", ["host", "arm64-linux", "arm64-android"])
def test_the_pool_is_linked_where_python_loads_a_library(name, tmp_path, monkeypatch):
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    target, library = targets.load(name), tmp_path / "model.so"
    linker = Linker(target, also=pool_objects(target))
    build(Everything, target).export_library(str(library), fcompile=linker)
    with library.open("rb") as file:
        elf = ELFFile(file)
        names = {each.name for each in dynamic_symbols(elf)}
        needed = {each.needed for each in dynamic(elf, "DT_NEEDED")}
    python = target.os == "linux"
    assert ("__tvm_ffi_pocketformer_run" in names) == python
    assert ("libpthread.so.0" in needed) == python
    assert not {each for each in names if each.startswith("pool_")}


def test_a_cache_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setenv("POCKETFORMER_CACHE", "/dev/null/here")
    with pytest.raises(BuildFailed, match=r"cannot be written, .*/null/here.*POCKETFORMER_CACHE"):
        pool_objects(targets.load("host"))
