"""Which compiler makes the native runtime for a platform: zig's, for Android the user's NDK."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.errors import BuildFailed
from pocketformer.compiler.link import NDK_VARIABLE
from pocketformer.compiler.zig import find_zig
from pocketformer.targets.target import PLATFORMS

# glibc 2.17 is that of 2012: the result runs on any system that is still in use.
ZIG_TARGETS = {
    ("x86_64", "linux"): "x86_64-linux-gnu.2.17",
    ("aarch64", "linux"): "aarch64-linux-gnu.2.17",
}


@dataclass(frozen=True)
class Android:
    """What clang, the NDK's folders and zig call an architecture; `cpu` is for zig."""

    clang: str
    folder: str
    zig: str
    cpu: str


ANDROID = {
    "aarch64": Android(
        "aarch64-linux-android", "aarch64-linux-android", "aarch64-linux-android", "generic"
    ),
    "arm": Android(
        "armv7a-linux-androideabi",
        "arm-linux-androideabi",
        "arm-linux-androideabi",
        "generic+v7a+neon",
    ),
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
        tools = _ndk(ANDROID[arch], android_api)
    else:
        tools = _zig("-target", ZIG_TARGETS[arch, system])
    return replace(tools, link=(*tools.link, page_size))


def _zig(*flags: str, environment: Mapping[str, str] | None = None) -> Toolchain:
    zig = find_zig()
    if zig is None:
        raise BuildFailed("the compiler is missing; pip install ziglang brings it")
    cache = str(cache_folder("zig"))
    # Without an -O, zig adds checks that need its own run-time library.
    common = (*flags, "-fno-sanitize=all")
    return Toolchain(
        cxx=(zig, "c++", *common),
        cc=(zig, "cc", *common),
        version=" ".join(["zig", version("ziglang"), *(environment or {}).values()]),
        environment={
            "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, **(environment or {}),
        },
        zig=True,
    )


def _ndk(android: Android, api: int | None) -> Toolchain:
    home = os.environ.get(NDK_VARIABLE)
    if not home:
        raise BuildFailed(
            f"compiling for Android needs Google's NDK: set {NDK_VARIABLE} to its folder, "
            f"the one that holds toolchains/llvm"
        )
    folders = sorted(Path(home).glob("toolchains/llvm/prebuilt/*"))
    compilers = [path for each in folders for path in sorted(each.glob("bin/clang++*"))
                 if path.name in ("clang++", "clang++.exe")]
    target = f"--target={android.clang}{api}"
    for clang in compilers:
        text = _version(clang)
        if text is not None:
            return Toolchain(
                cxx=(str(clang), target),
                cc=(str(clang.with_name(clang.name.replace("++", ""))), target),
                version=text,
                link=("-static-libstdc++",),    # an app then carries one library, not two
            )
    for folder in folders:
        if (folder / "sysroot/usr/include").is_dir():
            return _zig_for_android(folder / "sysroot/usr", android, api)
    if compilers:
        raise BuildFailed(f"{compilers[0]} cannot be run on this machine; "
                          f"set {NDK_VARIABLE} to an NDK for it")
    raise BuildFailed(
        f"{NDK_VARIABLE} is {home}, where there is no toolchains/llvm/prebuilt/*/bin/clang++; "
        f"set it to the folder of an Android NDK"
    )


def _zig_for_android(system: Path, android: Android, api: int | None) -> Toolchain:
    """zig with the headers and libraries of an NDK whose own clang is for another machine.

    Its command line is tested, the result is not: no test has Android's headers.
    """
    libraries = system / "lib" / android.folder / str(api)
    if not libraries.is_dir():
        raise BuildFailed(f"there is no {libraries}; "
                          f"set {NDK_VARIABLE} to an NDK that knows Android API {api}")
    include = system / "include"
    # Some of the names are those of other zig versions.
    lines = [f"include_dir={include}", f"sys_include_dir={include / android.folder}"]
    lines += [f"{name}={libraries}" for name in ("crt_dir", "cc_dir", "gcc_dir")]
    lines += [f"{name}=" for name in ("msvc_lib_dir", "kernel32_lib_dir", "darwin_sdk_dir")]
    text = "\n".join(lines) + "\n"
    name = f"android-{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    file = cache_folder("zig") / name
    if not file.exists():
        part = file.with_name(f".{name}.{os.getpid()}.part")
        part.write_text(text)
        os.replace(part, file)
    flags = ("-target", f"{android.zig}.{api}", f"-mcpu={android.cpu}")
    return _zig(*flags, environment={"ZIG_LIBC": str(file)})


def _version(compiler: Path) -> str | None:
    """What a compiler says of itself, None if it cannot be run here."""
    try:
        done = subprocess.run(
            [compiler, "--version"], check=True, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
