"""Which compiler makes the native runtime for a platform: zig's, for Android the user's NDK."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.errors import BuildFailed
from pocketformer.targets.target import PLATFORMS

NDK_VARIABLE = "ANDROID_NDK_HOME"
# glibc 2.17 is that of 2012: the result runs on any system that is still in use.
ZIG_TARGETS = {
    ("x86_64", "linux"): "x86_64-linux-gnu.2.17",
    ("aarch64", "linux"): "aarch64-linux-gnu.2.17",
}
ANDROID_TRIPLES = {
    ("aarch64", "android"): "aarch64-linux-android",
    ("arm", "android"): "armv7a-linux-androideabi",
}


@dataclass(frozen=True)
class Toolchain:
    """Commands that compile and link C++ and C for one platform.

    `link` is added where something is linked, `environment` to the variables of every call;
    `version` is a text that changes when the compiler does. `zig` says that it is zig, which
    compiles the standard libraries itself when they are first linked.
    """

    cxx: tuple[str, ...]
    cc: tuple[str, ...]
    version: str
    link: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    zig: bool = False


def find(arch: str, system: str, android_api: int | None) -> Toolchain:
    """The compiler for `arch` and `system`, from Android version `android_api` on.

    Raises BuildFailed if there is none, with the variable to set or the package to install.
    """
    page_size = f"-Wl,-z,max-page-size={PLATFORMS[arch, system].page_size}"
    if system == "android":
        tools = _ndk(ANDROID_TRIPLES[arch, system], android_api)
    else:
        tools = _zig("-target", ZIG_TARGETS[arch, system])
    return replace(tools, link=(*tools.link, page_size))


def _zig(*flags: str, environment: Mapping[str, str] | None = None) -> Toolchain:
    spec = importlib.util.find_spec("ziglang")
    folders = spec.submodule_search_locations if spec else None
    zig = shutil.which("zig", path=os.pathsep.join(folders)) if folders else None
    if zig is None:
        raise BuildFailed("the compiler is missing; pip install ziglang brings it")
    cache = str(cache_folder("zig"))
    # Without an -O, zig adds checks that need its own run-time library.
    common = (*flags, "-fno-sanitize=all")
    return Toolchain(
        cxx=(zig, "c++", *common),
        cc=(zig, "cc", *common),
        version=f"zig {version('ziglang')}",
        environment={
            "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, **(environment or {}),
        },
        zig=True,
    )


def _ndk(triple: str, api: int | None) -> Toolchain:
    home = os.environ.get(NDK_VARIABLE)
    if not home:
        raise BuildFailed(
            f"compiling for Android needs Google's NDK: set {NDK_VARIABLE} to its folder, "
            f"the one that holds toolchains/llvm"
        )
    compilers = sorted(Path(home).glob("toolchains/llvm/prebuilt/*/bin/clang++*"))
    compilers = [path for path in compilers if path.name in ("clang++", "clang++.exe")]
    if not compilers:
        raise BuildFailed(
            f"{NDK_VARIABLE} is {home}, where there is no toolchains/llvm/prebuilt/*/bin/clang++; "
            f"set it to the folder of an Android NDK"
        )
    target = f"--target={triple}{api}"
    for clang in compilers:
        text = _version(clang)
        if text is not None:
            return Toolchain(
                cxx=(str(clang), target),
                cc=(str(clang.with_name(clang.name.replace("++", ""))), target),
                version=text,
                link=("-static-libstdc++",),    # an app then carries one library, not two
            )
    raise BuildFailed(f"the compiler {compilers[0]} cannot be run on this machine")


def _version(compiler: Path) -> str | None:
    """What a compiler says of itself, None if it cannot be run here."""
    try:
        done = subprocess.run(
            [compiler, "--version"], check=True, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
