"""The /proc/cpuinfo of an emulated CPU: programs in qemu would read the one of this machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pocketformer.compiler.errors import SetUpFailed

# How qemu is told, the implementer, the part.
CPUS = {
    "cortex-a72": ("cortex-a72", "0x41", "0xd08"),
    "cortex-a76": ("cortex-a76", "0x41", "0xd0b"),
    # Pointer authentication as the architecture defines it would take half of the time.
    "max": ("max,pauth-impdef=on", "0x00", "0x051"),
}
# Linux's words for the bits of the auxiliary vector's AT_HWCAP and AT_HWCAP2, the lowest first.
WORDS = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma"
    " lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca"
    " pacg",
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm"
    " svebf16 i8mm bf16 dgh rng bti mte ecv afp rpres mte3 sme",
)


def cpuinfo(qemu: Sequence[str], files: Path, loader: str, cpu: str) -> str:
    """What the file says of `cpu`, a key of CPUS, with as many cores as this machine has.

    The features are those that the command `qemu` gives it, as the C library in `files` reads them.
    Raises SetUpFailed if that qemu cannot run the CPU.
    """
    model, implementer, part = CPUS[cpu]
    command = [*qemu, "-cpu", model, "-L", str(files), "-E", "LD_SHOW_AUXV=1"]
    done = subprocess.run(
        [*command, str(files / loader), "--version"],
        capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
    )
    capabilities = re.findall(r"^AT_HWCAP2?:\s+(?:0x)?([0-9a-f]+)$", done.stdout, re.MULTILINE)
    if done.returncode or len(capabilities) < 2:
        said = done.stderr.strip().splitlines() or ["its C library does not tell the features"]
        raise SetUpFailed(f"{qemu[-1]} cannot run an emulated {cpu}: {said[0]}")
    features = " ".join(_words(capabilities))
    return "".join(
        f"processor\t: {number}\n"
        "BogoMIPS\t: 100.00\n"
        f"Features\t: {features}\n"
        f"CPU implementer\t: {implementer}\n"
        "CPU architecture: 8\n"
        "CPU variant\t: 0x0\n"
        f"CPU part\t: {part}\n"
        "CPU revision\t: 0\n\n"
        for number in range(os.cpu_count() or 1)
    )


def _words(capabilities: Sequence[str]) -> list[str]:
    return [
        word
        for names, bits in zip(WORDS, capabilities, strict=False)
        for number, word in enumerate(names.split())
        if int(bits, 16) >> number & 1
    ]
