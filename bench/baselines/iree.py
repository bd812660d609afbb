"""IREE: compiles the ONNX file of fixed sizes for this processor, its weights inside."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import onnx_files
from bench.baselines.peer import Peer, Refuses, Sizes, converted, run_converter
from bench.models import BenchModel
from pocketformer.compiler.arrays import Arrays, read_arrays
from pocketformer.compiler.engines import Engine

# For this processor, with weights laid out for its kernels; its other options are as they come.
FLAGS = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
    "--iree-opt-data-tiling",
)


class IREE(Engine):
    """A compiled module: on one thread without workers, on several with as many of them."""

    def __init__(self) -> None:
        import iree.runtime

        self.library = iree.runtime

    def load(self, path: str, inputs: str, threads: int, sizes: Sizes) -> None:
        library = self.library
        if threads > 1:
            library.flags.parse_flags(f"--task_topology_group_count={threads}")
        config = library.Config("local-task" if threads > 1 else "local-sync")
        context = library.SystemContext(config=config)
        module = library.VmModule.mmap(context.instance, path)
        context.add_vm_module(module)
        (name,) = (name for name in module.function_names if name.isidentifier()
                   and not name.startswith("__"))
        self.function = context.modules[module.name][name]
        given = read_arrays(Path(inputs)).values()
        self.given = [library.asdevicearray(config.device, array) for array in given]

    def call(self) -> Arrays:
        return {"output": self.function(*self.given).to_host()}


def convert(model: BenchModel, sizes: Sizes, output: Path) -> None:
    """Import the ONNX file and compile it. Raises Refuses with the first error."""
    imported = output.with_suffix(".mlir")
    try:
        _run(sys.executable, "-m", "iree.compiler.tools.import_onnx",
             str(onnx_files.fixed(model, sizes)), "-o", str(imported))
        _run(str(Path(sys.executable).with_name("iree-compile")), str(imported), *FLAGS,
             "-o", str(output))
    finally:
        imported.unlink(missing_ok=True)


def _run(*command: str) -> None:
    done = run_converter(command)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
        told = next((line for line in lines if "error:" in line), lines[-1])
        raise Refuses(told.partition("error:")[2].strip() or told)


PACKAGES = ("iree-base-compiler", "iree-base-runtime")
PEERS = (
    Peer("iree", "IREE", f"{__name__}:IREE", PACKAGES, converted(__name__, ".vmfb", PACKAGES)),
)
