"""A folder that is laid out like Google's NDK, whose compilers are zig's for musl.

musl is, like Android's C library, a small one that is not glibc: what compiles with it has no
glibc-isms.
"""

from __future__ import annotations

from pathlib import Path

from pocketformer.runtime import toolchain

SCRIPT = """#!/bin/sh
export ZIG_GLOBAL_CACHE_DIR='{cache}' ZIG_LOCAL_CACHE_DIR='{cache}'
for word; do
    shift
    case "$word" in
        --target=aarch64-linux-android*) set -- "$@" -target aarch64-linux-musl ;;
        --target=armv7a-linux-androideabi*)
            set -- "$@" -target arm-linux-musleabihf -mcpu=generic+v7a+neon ;;
        -static-libstdc++) ;;
        *) set -- "$@" "$word" ;;
    esac
done
exec '{zig}' {driver} -fno-sanitize=all "$@"
"""


def stand_in_ndk(folder: Path) -> Path:
    """Make one in `folder`, for ANDROID_NDK_HOME."""
    tools = toolchain.find("aarch64", "linux", None)
    binaries = folder / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    binaries.mkdir(parents=True)
    for name, driver in (("clang", "cc"), ("clang++", "c++")):
        cache = tools.environment["ZIG_GLOBAL_CACHE_DIR"]
        script = SCRIPT.format(zig=tools.cxx[0], cache=cache, driver=driver)
        (binaries / name).write_text(script)
        (binaries / name).chmod(0o755)
    return folder
