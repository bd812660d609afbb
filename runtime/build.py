"""The native runtime: compiled from the installed TVM's sources and ours, kept by what went in."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketformer import targets
from pocketformer.compiler.cache import alone, cache_folder
from pocketformer.compiler.errors import BuildFailed
from pocketformer.compiler.machine import cpus, this_machine
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.system_libraries import RUNTIME
from pocketformer.runtime import sources, toolchain
from pocketformer.runtime.objects import Compiler, Object
from pocketformer.runtime.toolchain import Toolchain
from pocketformer.targets.device_file import read_device

NAMES = {
    ("x86_64", "linux"): "x86_64-linux",
    ("aarch64", "linux"): "arm64-linux",
    ("aarch64", "android"): "arm64-android",
    ("arm", "android"): "armv7-android",
}
HEADER = "pocketformer.h"
RUN, DEVICE = "pocketformer_run", "device/pocketformer_device"
DEVICE_LIBRARY = f"device/{RUNTIME}"
FILES = (RUNTIME, RUN, DEVICE, DEVICE_LIBRARY)
EXPORTS = "{ global: pf_*; TVMFFI*; TVMBackend*; local: *; };\n"
LINK = (
    "-O2", "-s", "-pthread", "-Wl,--gc-sections", "-Wl,--hash-style=both",
    "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack",
)
SHARED = ("-shared", f"-Wl,-soname,{RUNTIME}", "-Wl,-z,defs", "-lm", "-ldl")
PROGRAM = ("-pie", "-Wl,-rpath,$ORIGIN")
COMPILING = 0.9    # the share of the work that is not linking


@dataclass(frozen=True)
class Runtime:
    """A built runtime for `target`; `sizes` gives the bytes of its files by name."""

    target: str
    folder: Path
    sizes: Mapping[str, int]

    @property
    def library(self) -> Path:
        """What an app links or loads: the C API, and TVM's below it."""
        return self.folder / RUNTIME

    @property
    def run(self) -> Path:
        return self.folder / RUN

    @property
    def header(self) -> Path:
        return self.folder / HEADER

    @property
    def device(self) -> Path:
        """The program that serves a device to clients."""
        return self.folder / DEVICE

    @property
    def device_library(self) -> Path:
        """The library beside `device`, which can do all that `library` can."""
        return self.device.with_name(RUNTIME)


def build(
    target: str,
    *,
    progress: Progress | None = None,
    jobs: int | None = None,
    force: bool = False,
) -> Runtime:
    """The native runtime for `target`, compiled unless that was done before.

    `target` is `host`, a platform such as `arm64-linux`, or a device such as `pixel8`, which means
    its platform. `progress` is called with a step and a fraction. `jobs` compilers run at a time,
    one a CPU by default. `force` compiles everything again.
    Raises UnknownTarget, and BuildFailed where the compiler is missing or refuses.
    """
    arch, system, api = _platform(target)
    tools = toolchain.find(arch, system, api)
    parts = _Parts.of(tools)
    name = f"{NAMES[arch, system]}-{parts.key(tools)}"
    folder = cache_folder("runtime") / name
    if not folder.exists() or force:
        with alone(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists() or force:
                scratch = folder.with_name(f".{name}.part")
                try:
                    _make(parts, Compiler(tools, scratch), jobs, force, progress)
                    shutil.rmtree(folder, ignore_errors=True)
                    os.replace(scratch / "out", folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    sizes = {file: (folder / file).stat().st_size for file in FILES}
    return Runtime(NAMES[arch, system], folder, sizes)


@dataclass(frozen=True)
class _Parts:
    """The object files of all that is linked."""

    library: Sequence[Object]
    device: Sequence[Object]    # on top of `library`
    run_main: Object
    device_main: Object

    @classmethod
    def of(cls, tools: Toolchain) -> _Parts:
        return cls(
            [Object.of(each, tools) for each in sources.library_sources()],
            [Object.of(each, tools) for each in sources.device_sources()],
            Object.of(sources.program_source("run/pocketformer_run.c"), tools),
            Object.of(sources.program_source("device_main.c"), tools),
        )

    @property
    def all(self) -> list[Object]:
        return [*self.library, *self.device, self.run_main, self.device_main]

    def key(self, tools: Toolchain) -> str:
        """A text that changes when any file that is built would."""
        words = [each.path.name for each in self.all]
        words += [*tools.link, *LINK, *SHARED, *PROGRAM, EXPORTS, sources.HEADER.read_text()]
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def _make(
    parts: _Parts, compiler: Compiler, jobs: int | None, force: bool, progress: Progress | None
) -> None:
    """Compile and link everything into the folder `out` of the compiler's scratch folder."""
    report = progress or silent
    shutil.rmtree(compiler.scratch, ignore_errors=True)
    output = compiler.scratch / "out"
    (output / "device").mkdir(parents=True)
    report("compiling", 0.0)
    # Begun first, as it takes longest.
    slow = [Object.standard_library(compiler.toolchain, LINK)] if compiler.toolchain.zig else []
    compiler.compile(
        [*slow, *parts.all],
        jobs or len(cpus()),
        lambda source, part: report(f"compiled {source.name}", COMPILING * part),
        again=force,
    )
    _link(parts, compiler, output, lambda name, part: report(
        f"linking {name}", COMPILING + (1 - COMPILING) * part
    ))
    shutil.copy(sources.HEADER, output / HEADER)
    report("done", 1.0)


def _link(parts: _Parts, compiler: Compiler, output: Path, begin: Progress) -> None:
    exports = compiler.scratch / "exports"
    exports.write_text(EXPORTS)
    shared = (*SHARED, f"-Wl,--version-script,{exports}")
    tools = compiler.toolchain
    plan = (
        (RUNTIME, tools.cxx, parts.library, shared),
        (DEVICE_LIBRARY, tools.cxx, [*parts.library, *parts.device], shared),
        (RUN, tools.cc, [parts.run_main], (str(output / RUNTIME), *PROGRAM)),
        (DEVICE, tools.cc, [parts.device_main], (str(output / DEVICE_LIBRARY), *PROGRAM)),
    )
    for number, (name, driver, objects, options) in enumerate(plan):
        begin(name, number / len(plan))
        files = [str(each.path) for each in objects]
        command = [*driver, *files, *options, *LINK, *tools.link, "-o", str(output / name)]
        compiler.run(command, f"linking {name}")


def _platform(name: str) -> tuple[str, str, int | None]:
    """Architecture, system and oldest Android of a target; LLVM, which takes seconds, is spared."""
    if name == targets.HOST:
        machine = this_machine()
        if (machine.arch, machine.os) not in NAMES:
            raise BuildFailed(f"there is no runtime for {machine}, only for "
                              f"{', '.join(NAMES.values())}")
        return machine.arch, machine.os, None
    device = name.removesuffix("/cpu")
    known = device in targets.available()
    target = read_device(targets.DEVICES / f"{device}.toml") if known else targets.load(name)
    if target.os != "android":
        return target.arch, target.os, None
    # One library for all phones: from the oldest Android that its platform knows.
    platform = read_device(targets.DEVICES / f"{NAMES[target.arch, target.os]}.toml")
    return target.arch, target.os, platform.android_api
