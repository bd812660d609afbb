"""The threads that a model.so brings along: runtime/pool, compiled for the target and kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.errors import BuildFailed
from pocketformer.runtime import sources, toolchain
from pocketformer.runtime.objects import Compiler, Object
from pocketformer.targets import Target


def pool_objects(target: Target) -> list[Path]:
    """Object files to link into a library for `target`; none where only our runtime loads it.

    That runtime has threads of its own; Python, which has no native code of ours, takes those of
    the library. Raises BuildFailed where the compiler is missing.
    """
    if target.os != "linux":
        return []
    try:
        tools = toolchain.find(target.arch, target.os, None)
        objects = [Object.of(source, tools) for source in sources.pool_sources()]
        if not all(each.path.exists() for each in objects):
            with tempfile.TemporaryDirectory(dir=cache_folder("runtime")) as scratch:
                Compiler(tools, Path(scratch)).compile(objects, 1, lambda source, part: None)
    except OSError as error:
        raise BuildFailed(
            f"the cache cannot be written, {error.strerror}: {error.filename}; "
            f"POCKETFORMER_CACHE chooses another folder"
        ) from None
    return [each.path for each in objects]
