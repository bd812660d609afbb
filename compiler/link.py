"""Object files -> a shared library, per platform, with tools that pip installs.

The linker is LLD, which the package ziglang brings. The system's libraries need not be here: empty
ones with the same names stand in for them while linking. For Android the user's NDK links, if
ANDROID_NDK_HOME is set.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketformer.compiler.errors import LinkFailed
from pocketformer.compiler.system_libraries import (
    ALIASES,
    RUNTIME,
    route,
    undefined_symbols,
)
from pocketformer.compiler.zig import find_zig
from pocketformer.targets import Target

EMULATIONS = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux", "arm": "armelf_linux_eabi"}
NDK_VARIABLE = "ANDROID_NDK_HOME"


def link(
    objects: Sequence[Path], output: Path, target: Target, soname: str = "model.so"
) -> None:
    """Link `objects` to the shared library `output`, which appears whole or not at all.

    It runs on glibc from 2.17, or on Android from the target's API level. Debug information is left
    out. Raises LinkFailed if a symbol is in none of the system's libraries, if ANDROID_NDK_HOME
    holds no NDK, or with what the linker said.
    """
    ndk = os.environ.get(NDK_VARIABLE) if target.os == "android" else None
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with tempfile.TemporaryDirectory(prefix="pocketformer-link-") as folder:
            if ndk:
                command = _ndk(Path(ndk), objects, Path(folder), target, soname)
            else:
                command = _lld(objects, Path(folder), target, soname)
            _run([*command, "-o", str(part)], output, target)
        try:
            os.replace(part, output)
        except OSError as error:
            raise LinkFailed(f"cannot write {output}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


@dataclass(frozen=True)
class Linker:
    """`link` as the `fcompile` of TVM's `export_library`, with the objects `also` besides."""

    target: Target
    soname: str = "model.so"
    also: Sequence[Path] = ()

    def __call__(self, output: str, objects: Sequence[str], **options: object) -> None:
        paths = [Path(path) for path in objects if not _is_empty_source(Path(path))]
        link([*paths, *self.also], Path(output), self.target, self.soname)

    def get_target_triple(self) -> str:
        """Asked by TVM when a model has no kernel that would tell."""
        return self.target.triple


def _is_empty_source(path: Path) -> bool:
    """TVM stands a C file with one semicolon for the kernels of a model that has none."""
    return path.suffix == ".c" and path.read_text().strip() == ";"


def _lld(objects: Sequence[Path], folder: Path, target: Target, soname: str) -> list[str]:
    undefined = undefined_symbols(objects)
    aliases = sorted(undefined & ALIASES.keys())
    libraries = route(undefined - ALIASES.keys(), target)
    stubs = [_stub(folder, name, symbols, target) for name, symbols in libraries.items()]
    return [
        *_lld_shared(target),
        *_options(target, soname),
        *(f"--defsym={alias}={ALIASES[alias]}" for alias in aliases),
        *map(str, objects),
        *map(str, stubs),
    ]


def _ndk(
    ndk: Path, objects: Sequence[Path], folder: Path, target: Target, soname: str
) -> list[str]:
    clang = next(iter(sorted(ndk.glob("toolchains/llvm/prebuilt/*/bin/clang"))), None)
    if clang is None:
        raise LinkFailed(
            f"{NDK_VARIABLE} is {ndk}, where there is no toolchains/llvm/prebuilt/*/bin/clang; "
            f"set it to an Android NDK, or unset it"
        )
    symbols = [name for name in undefined_symbols(objects) if name.startswith("TVM")]
    return [
        str(clang),
        f"--target={target.triple}{target.android_api}",
        "-shared",
        *(f"-Wl,{option}" for option in _options(target, soname)),
        *map(str, objects),
        str(_stub(folder, RUNTIME, sorted(symbols), target)),
        "-Wl,--as-needed",
        "-lm",
    ]


def _options(target: Target, soname: str) -> list[str]:
    options = [
        f"-soname={soname}",
        "--hash-style=both",    # Android before 6.0 reads only the older one
        "-z", f"max-page-size={target.page_size}",
        "-z", "relro",
        "-z", "now",
        "-z", "noexecstack",
        "--strip-all",
    ]
    return [*options, "--no-undefined"] if target.os == "android" else options


def _stub(folder: Path, soname: str, symbols: Sequence[str], target: Target) -> Path:
    """An empty library that stands for the real `soname` and defines `symbols`.

    A script that assigns symbols is all the input that LLD needs. Without versions, glibc binds a
    symbol to its oldest version, which is why the result loads on old systems.
    """
    script, stub = folder / f"{soname}.ld", folder / soname
    script.write_text("".join(f"{symbol} = 0;\n" for symbol in symbols))
    _run([*_lld_shared(target), f"-soname={soname}", str(script), "-o", str(stub)], stub, target)
    return stub


def _lld_shared(target: Target) -> list[str]:
    zig = find_zig()
    if zig is None:
        raise LinkFailed("the linker is missing; pip install ziglang brings it")
    return [zig, "ld.lld", "-shared", "-m", EMULATIONS[target.arch]]


def _run(command: Sequence[str], output: Path, target: Target) -> None:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise LinkFailed(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.splitlines() or [f"it ended with code {done.returncode}"]
        cause = next((line for line in lines if "error" in line), lines[0])
        raise LinkFailed(f"linking {output.name} for {target.name} failed: {cause.strip()}")
