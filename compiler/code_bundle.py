"""A module of our own, behind which there is no model, as a bundle: limits, kernels to be timed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tvm import relax
from tvm.ir import IRModule

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.link import Linker
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.pipeline import Step, run
from pocketformer.compiler.pool import pool_objects
from pocketformer.targets import Target


def code_bundle(
    module: IRModule, steps: Iterable[Step], target: Target, manifest: Manifest
) -> Bundle:
    """The machine code of `module` after `steps`, without weights. Raises LinkFailed."""
    executable = relax.build(run(module, steps, target), target.tvm(), relax_pipeline=None)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        executable.export_library(str(library), fcompile=Linker(target, also=pool_objects(target)))
        return Bundle.create(library, {}, manifest)
