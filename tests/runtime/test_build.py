"""The native runtime, as it is built for this machine and for an ARM64 one."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module

import psutil
import pytest
from elftools.elf.elffile import ELFFile
from typer.testing import CliRunner

from pocketformer import runtime, targets
from pocketformer.compiler import machine
from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.cli import app
from pocketformer.compiler.errors import BuildFailed, UnknownTarget
from pocketformer.runtime import Runtime, sources, toolchain
from pocketformer.runtime.objects import Compiler, Object
from tests.runtime.caches import compiled, left_in, with_standard_libraries

SONAME = "libpocketformer_runtime.so"
LIBRARIES = (SONAME, f"device/{SONAME}")
PROGRAMS = ("pocketformer_run", "device/pocketformer_device")
SYSTEM = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"}
MACHINES = {"x86_64-linux": "EM_X86_64", "arm64-linux": "EM_AARCH64"}
BUILD = "from pocketformer import runtime; print(runtime.build('host', progress=print).folder)"


@pytest.fixture(scope="module", params=["host", "arm64-linux"])
def built(request) -> Runtime:
    return runtime.build(request.param)


@pytest.fixture
def elf(built):
    """A function that opens a file of the runtime by its name."""
    files = []

    def open_elf(name):
        files.append((built.folder / name).open("rb"))
        return ELFFile(files[-1])

    yield open_elf
    for file in files:
        file.close()


def dynamic(elf, tag):
    names = {"DT_NEEDED": "needed", "DT_SONAME": "soname", "DT_RUNPATH": "runpath"}
    section = elf.get_section_by_name(".dynamic")
    return [getattr(each, names[tag]) for each in section.iter_tags(tag)]


def exports(elf):
    table = elf.get_section_by_name(".dynsym")
    return {symbol.name for symbol in table.iter_symbols()
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol.name}


@pytest.mark.parametrize("name", [*LIBRARIES, *PROGRAMS])
def test_file_is_for_its_machine_and_stripped(built, elf, name):
    file = elf(name)
    assert file["e_machine"] == MACHINES[built.target]
    assert not file.get_section_by_name(".symtab")
    assert not [each.name for each in file.iter_sections() if each.name.startswith(".debug")]


@pytest.mark.parametrize("name", LIBRARIES)
def test_library_needs_the_system_alone(elf, name):
    file = elf(name)
    assert dynamic(file, "DT_SONAME") == [SONAME]
    needed = {each for each in dynamic(file, "DT_NEEDED") if not each.startswith("ld-linux")}
    assert needed <= SYSTEM


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_takes_the_library_beside_it(elf, name):
    file = elf(name)
    assert SONAME in dynamic(file, "DT_NEEDED")
    assert dynamic(file, "DT_RUNPATH") == ["$ORIGIN"]


@pytest.mark.parametrize("name", [*LIBRARIES, *PROGRAMS])
def test_file_runs_on_glibc_2_17(elf, name):
    versions = elf(name).get_section_by_name(".gnu.version_r")
    names = {each.name for _, needs in versions.iter_versions() for each in needs}
    numbers = [tuple(map(int, name.removeprefix("GLIBC_").split("."))) for name in names]
    assert numbers
    assert max(numbers) <= (2, 17)


@pytest.mark.parametrize("name", [*LIBRARIES, *PROGRAMS])
def test_segments_fit_the_largest_pages_of_the_platform(built, elf, name):
    aligned = targets.load(built.target).page_size
    segments = [each for each in elf(name).iter_segments() if each["p_type"] == "PT_LOAD"]
    assert {each["p_align"] for each in segments} == {aligned}


@pytest.mark.parametrize("name", LIBRARIES)
def test_library_exports_the_c_interfaces_alone(elf, name):
    names = exports(elf(name))
    assert {each for each in names if not each.startswith(("pf_", "TVMFFI", "TVMBackend"))} == set()
    assert "TVMFFIErrorSetRaisedFromCStrParts" in names    # what every model.so asks for


def test_library_exports_all_that_the_header_declares(built, elf):
    declared = set(re.findall(r"^PF_API .*?\b(pf_\w+)\(", built.header.read_text(), re.MULTILINE))
    assert len(declared) > 10
    assert declared <= exports(elf(SONAME))


def test_only_the_library_of_the_device_can_be_called_from_afar(built, elf):
    assert b"rpc.ServerLoop" in built.device_library.read_bytes()
    assert b"rpc.ServerLoop" not in built.library.read_bytes()
    assert "pf_device_main" in exports(elf(LIBRARIES[1])) - exports(elf(SONAME))


def test_library_is_small(built):
    assert built.sizes[SONAME] < 3_000_000


def test_sizes_are_those_of_the_files(built):
    files = {name: (built.folder / name).stat().st_size for name in (*LIBRARIES, *PROGRAMS)}
    assert dict(built.sizes) == files


def test_no_file_knows_where_it_was_built(built):
    for name in built.sizes:
        content = (built.folder / name).read_bytes()
        assert str(sources.HERE.resolve()).encode() not in content
        assert b"site-packages" not in content


def test_second_build_does_nothing(host_runtime):
    steps = []
    start = time.perf_counter()
    assert runtime.build("host", progress=lambda *step: steps.append(step)) == host_runtime
    assert time.perf_counter() - start < 1
    assert steps == []


def test_device_has_the_runtime_of_its_platform():
    assert runtime.build("raspberrypi5/cpu") == runtime.build("arm64-linux")


def test_unknown_target_lists_near_ones():
    with pytest.raises(UnknownTarget, match="no target 'pixle8'; near: pixel8"):
        runtime.build("pixle8")


def test_gpu_of_a_device_is_refused():
    with pytest.raises(UnknownTarget, match="only its CPU"):
        runtime.build("pixel8/gpu")


def test_host_of_another_system_is_refused(monkeypatch):
    other = machine.Machine("aarch64", "darwin")
    module = import_module("pocketformer.runtime.build")
    monkeypatch.setattr(module, "this_machine", lambda: other)
    with pytest.raises(BuildFailed, match="no runtime for aarch64 darwin, only for x86_64-linux"):
        runtime.build("host")


def test_progress_goes_from_nothing_to_all(host_runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("POCKETFORMER_CACHE", str(compiled(tmp_path / "cache")))
    steps = []
    again = runtime.build("host", progress=lambda *step: steps.append(step))
    assert again.folder != host_runtime.folder
    assert again.sizes == host_runtime.sizes
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert f"linking {SONAME}" in dict(steps)


def test_object_is_compiled_again_when_forced_or_changed(tmp_path):
    source = tmp_path / "one.c"
    source.write_text("int one = 1;\n")
    tools = toolchain.find("x86_64", "linux", None)
    kept = compile_one(source, tools, tmp_path)
    made = kept.stat().st_ino
    assert compile_one(source, tools, tmp_path).stat().st_ino == made
    assert compile_one(source, tools, tmp_path, again=True).stat().st_ino != made
    source.write_text("int one = 2;\n")
    assert compile_one(source, tools, tmp_path) != kept


def compile_one(source, tools, folder, again=False):
    item = Object.of(sources.Source(source, ("-fPIC",), ""), tools)
    item = replace(item, path=folder / item.path.name)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    Compiler(tools, scratch).compile([item], 1, lambda source, part: None, again)
    return item.path


def test_broken_source_is_told_in_the_compilers_words(host_runtime, tmp_path, monkeypatch):
    broken = tmp_path / "broken.cc"
    broken.write_text("int f() { return nowhere; }\n")
    real = sources.library_sources()
    source = sources.Source(broken, real[0].flags, "")
    monkeypatch.setattr(sources, "library_sources", lambda: [source, *real])
    monkeypatch.setenv("POCKETFORMER_CACHE", str(compiled(tmp_path / "cache")))
    message = r"compiling broken\.cc failed: .*error: use of undeclared identifier 'nowhere'$"
    with pytest.raises(BuildFailed, match=message):
        runtime.build("host")
    assert left_in(tmp_path / "cache") == set()


def test_interrupted_build_leaves_nothing_half_written(host_runtime, tmp_path):
    cache = with_standard_libraries(tmp_path / "cache")
    process = start_build(cache)
    assert process.stdout.readline().startswith("compiling")
    while not (compilers := psutil.Process(process.pid).children(recursive=True)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(compilers, timeout=5)
    assert alive == []
    assert left_in(cache) == set()


def test_two_builds_at_once_make_one(host_runtime, tmp_path):
    cache = compiled(tmp_path / "cache")
    processes = [start_build(cache) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    (name,) = left_in(cache)
    assert [text.splitlines()[-1] for text in outputs] == [str(cache / "runtime" / name)] * 2
    assert sum("linking" in text for text in outputs) == 1
    for file, size in host_runtime.sizes.items():
        assert (cache / "runtime" / name / file).stat().st_size == size


def start_build(cache):
    return subprocess.Popen(
        [sys.executable, "-uc", BUILD],
        env={"PYTHONPATH": ":".join(sys.path), "POCKETFORMER_CACHE": str(cache)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


def test_the_command_tells_what_is_where(host_runtime):
    done = CliRunner().invoke(app, ["runtime", "build", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "target": host_runtime.target,
        "folder": str(host_runtime.folder),
        "bytes": dict(host_runtime.sizes),
    }
    assert host_runtime.folder.parent == cache_folder("runtime")


def test_the_command_ends_with_a_sentence(monkeypatch):
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    done = CliRunner().invoke(app, ["runtime", "build", "-t", "pixel8"])
    assert done.exit_code == 2
    assert "set ANDROID_NDK_HOME to its folder" in done.output
