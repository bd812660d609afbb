"""LLVM's tools that know ARM processors: its disassembler and llvm-mca, its static simulator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.device.debian import unpack
from pocketformer.compiler.device.once import make_once
from pocketformer.compiler.errors import SetUpFailed
from pocketformer.compiler.progress import Progress

Words = tuple[int, ...]

RELEASE = 19        # the first with models of all the cores below, and in Debian 12
PACKAGE = f"llvm-{RELEASE}"
INSIDE = f"usr/lib/{PACKAGE}/bin"
ITERATIONS = 100

# LLVM's own models of these cores are those of older ones: a cortex-a76 there is a cortex-a57. The
# one of cortex-a55 is kind to it: two 128-bit fmla a cycle, where the core has units for one.
MODELS = {
    "cortex-a76": "neoverse-n1", "cortex-a77": "neoverse-n1", "cortex-a78": "neoverse-n1",
    "cortex-x1": "neoverse-v1", "cortex-x2": "neoverse-v1", "cortex-x3": "neoverse-v1",
    "cortex-x4": "neoverse-v2",
    "cortex-a710": "neoverse-n2", "cortex-a715": "neoverse-n2", "cortex-a720": "neoverse-n2",
    "cortex-a55": "cortex-a55", "cortex-a510": "cortex-a510",
}


def set_up(progress: Progress | None = None) -> None:
    """Find the tools, or unpack Debian's package. Raises SetUpFailed where it cannot be had."""
    if shutil.which("llvm-mca") and _release() >= RELEASE:
        return
    folder = cache_folder("tools") / PACKAGE
    make_once(
        folder, f"{INSIDE}/llvm-mca", lambda part: unpack([PACKAGE], part, progress=progress)
    )


@cache
def _release() -> int:
    done = subprocess.run(["llvm-mca", "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"LLVM version (\d+)", done.stdout)
    return int(number[1]) if number else 0


@cache
def _command(tool: str) -> tuple[str, ...]:
    set_up()
    folder = cache_folder("tools") / PACKAGE
    if not folder.exists():
        return (tool,)
    # By the C library that was unpacked with it.
    loader = next(folder.glob("lib/*/ld-linux-*.so.*"))
    names = ("lib", "usr/lib")
    libraries = [folder / name / loader.parent.name for name in names]
    libraries.append(folder / INSIDE / "../lib")
    path = ":".join(map(str, libraries))
    return (str(loader), "--library-path", path, str(folder / INSIDE / tool))


def _run(tool: str, arguments: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*_command(tool), *arguments], input=given, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        cause = next((line for line in lines if "error" in line), f"code {done.returncode}")
        raise SetUpFailed(f"{tool} failed: {cause}")
    return done


def disassemble(words: Sequence[int]) -> list[str]:
    """A line of assembly for each instruction; an empty one where LLVM does not know it."""
    text = "".join(
        " ".join(f"0x{byte:02x}" for byte in word.to_bytes(4, "little")) + "\n" for word in words
    )
    done = _run("llvm-mc", ["-triple=aarch64", "-mattr=+all", "-disassemble"], text)
    unknown = {int(line) for line in re.findall(r"<stdin>:(\d+):\d+: warning", done.stderr)}
    known = iter(done.stdout.partition(".text\n")[2].splitlines())
    return [
        "" if number in unknown else next(known).strip() for number in range(1, len(words) + 1)
    ]


def cycles(blocks: Sequence[Words], model: str) -> list[float]:
    """Cycles of one pass through each block, when it runs over and over on LLVM's core `model`.

    All memory is in the first cache, and jumps are foreseen. An instruction that the core does not
    have counts as the mean of the others in its block.
    """
    lines = iter(disassemble([word for words in blocks for word in words]))
    text = []
    for number, words in enumerate(blocks):
        text += [f"# LLVM-MCA-BEGIN {number}", *(next(lines) for _ in words), "# LLVM-MCA-END"]
    options = [
        "-mtriple=aarch64", f"-mcpu={model}", "-json", f"-iterations={ITERATIONS}",
        "-skip-unsupported-instructions=any", "-resource-pressure=false",
    ]
    said = json.loads(_run("llvm-mca", options, "\n".join(text) + "\n").stdout)
    result = [float(len(words)) for words in blocks]      # one a cycle where it knows none of them
    for region in said["CodeRegions"]:
        number, summary = int(region["Name"]), region["SummaryView"]
        known = summary["Instructions"] / summary["Iterations"]
        passes = summary["TotalCycles"] / summary["Iterations"]
        result[number] = passes * len(blocks[number]) / known
    return result
