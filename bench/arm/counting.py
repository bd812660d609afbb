"""Run an arm64 program in the emulator and see what it executes between its marks."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.arm.blocks import Region, read_regions
from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.device import qemu
from pocketformer.compiler.device.emulator import set_up
from pocketformer.compiler.device.once import make_once
from pocketformer.compiler.errors import BuildFailed, DeviceFailed

SOURCES = Path(__file__).parent
# One thread works, and whatever draws random numbers draws the same ones in every run.
ENVIRONMENT = {
    "TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "QEMU_RAND_SEED": "1",
}
# Its vectors have 2048 bits in qemu, and 128 in the phones that do not hide it: an engine that uses
# it would seem to need a sixteenth of the instructions.
WITHOUT_SVE = ",sve=off,sme=off"
NO_RANDOM_ADDRESSES = 0x0040000     # Linux's ADDR_NO_RANDOMIZE
ASK_PERSONALITY = 0xFFFFFFFF


@dataclass(frozen=True)
class Counted:
    """A program's regions in the order in which they were closed, and what it wrote to stderr."""

    regions: list[Region]
    complained: str


def run_counted(
    argv: Sequence[str | Path],
    cpu: str = "cortex-a76",
    env: Mapping[str, str] | None = None,
    kind: str = "libc",
) -> Counted:
    """Run an arm64 program to its end, in a sysroot of `kind` ("libc" or "python").

    Counted is the thread that marks. What it executes is the same in every run, unless it looks at
    clocks or shares memory with other threads. Raises DeviceFailed with the program's last words if
    it fails.
    """
    with tempfile.TemporaryDirectory(prefix="pocketformer-count-") as folder:
        file = Path(folder) / "blocks.txt"
        kit = set_up(cpu, kind=kind, plugins=True)
        command = kit.command(argv, f"{plugin()},out={file}")
        if cpu == "max":
            command[command.index("-cpu") + 1] += WITHOUT_SVE
        with _same_addresses():
            done = subprocess.run(
                command, env={**qemu.environment(), **ENVIRONMENT, **(env or {})},
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                check=False,
            )
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            cause = words[-1] if words else f"it ended with code {done.returncode}"
            raise DeviceFailed(f"{Path(argv[0]).name} failed in the emulator: {cause}")
        return Counted(read_regions(file), done.stderr)


@contextmanager
def _same_addresses() -> Iterator[None]:
    """Programs started meanwhile lie at the same addresses in every run, where Linux allows it.

    Tables of pointers have their order from it: without, onnxruntime's counts vary more.
    """
    system = ctypes.CDLL(None)
    before = system.personality(ASK_PERSONALITY)
    system.personality(before | NO_RANDOM_ADDRESSES)
    try:
        yield
    finally:
        system.personality(before)


@cache
def plugin() -> Path:
    """The counter as a plugin for this machine's qemu, compiled once. Raises BuildFailed."""
    # Its functions of qemu's are found when qemu loads it.
    return compile_c("count_blocks.c", None, "-shared", "-fPIC", "-Wl,--allow-shlib-undefined")


def compile_c(source: str | Path, zig_target: str | None, *options: str) -> Path:
    """The C file `source`, of this folder if just a name, compiled by zig; kept by its contents.

    It is for this machine, or for `zig_target`. Raises BuildFailed with the compiler's first error.
    """
    text = (SOURCES / source).read_bytes()
    key = hashlib.sha256(repr((text, zig_target, options)).encode()).hexdigest()[:16]
    name = Path(source).stem
    folder = cache_folder("arm-judgement") / f"{name}-{key}"

    def make(part: Path) -> None:
        _zig_cc(SOURCES / source, part / name, zig_target, options)

    return make_once(folder, name, make) / name


def _zig_cc(source: Path, output: Path, zig_target: str | None, options: Sequence[str]) -> None:
    zig = str(cache_folder("zig"))
    done = subprocess.run(
        [
            sys.executable, "-m", "ziglang", "cc", "-O2", "-Wall", "-Wextra",
            *(["-target", zig_target] if zig_target else []), *options,
            str(source), "-o", str(output),
        ],
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig},
        capture_output=True, text=True, check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        cause = next((line for line in lines if "error" in line), lines[0])
        raise BuildFailed(f"zig cannot compile {source.name}: {cause}")
