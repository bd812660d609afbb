"""In the cache: Python packages for the emulated machine, and LiteRT's converter for this one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.device.once import make_once
from pocketformer.compiler.errors import SetUpFailed

PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
DONE = ".installed"

LITERT = "2.3.0"
# What litert-torch imports while it converts. Its own list brings a PyTorch with CUDA, 5 GB.
CONVERTER = (
    "litert-torch==0.10.0", "litert-converter==0.5.0", f"ai-edge-litert=={LITERT}",
    "ai-edge-quantizer==0.10.0", "absl-py", "backports.strenum", "fire", "immutabledict", "jax",
    "jaxlib", "jaxtyping", "kagglehub", "lark", "litert-lm-builder", "multipledispatch",
    "opt_einsum", "ordered-set", "sentencepiece", "tabulate", "termcolor", "torchao",
    "wadler_lindig", "xdsl==0.28.0",
)


def for_arm(packages: Sequence[str], sysroot: Path) -> Path:
    """A folder of `packages` and what they need, for the Python in `sysroot`, on ARM."""
    python = next(sysroot.glob("usr/lib/python3.*")).name.removeprefix("python")
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    return _installed(
        packages, [*platforms, f"--python-version={python}", "--only-binary=:all:"]
    )


def litert_converter() -> Path:
    """A folder with LiteRT's converter, 0.8 GB, that goes with the PyTorch of this Python."""
    return _installed(CONVERTER, ["--no-deps"])


def _installed(packages: Sequence[str], options: Sequence[str]) -> Path:
    key = hashlib.sha256(repr((sys.version_info[:2], packages, options)).encode()).hexdigest()[:12]

    def make(part: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        done = subprocess.run(
            [*pip, "--target", str(part), *options, *packages],
            capture_output=True, text=True, errors="replace", check=False,
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            cause = said[-1].partition(":")[2].strip() if said else f"code {done.returncode}"
            raise SetUpFailed(f"pip cannot install {' '.join(packages)}: {cause}")
        (part / DONE).touch()

    return make_once(cache_folder("wheels") / key, DONE, make)
