"""A job as a bundle: kernels of one workload, called in turns with weights that are in no cache."""

from __future__ import annotations

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.code_bundle import code_bundle
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import Entry, KernelRecord
from pocketformer.compiler.model import Dim
from pocketformer.compiler.pipeline import Step, machine_code
from pocketformer.compiler.tuning.bundle_files import pack
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.tuning.turns import turns
from pocketformer.passes.lower_math import LowerMath
from pocketformer.schedules.cpu import pick


def build(job: Job) -> bytes:
    """The bundle of `job` as an uncompressed tar, which bundle_files.py unpacks.

    Raises LinkFailed, or LookupError for a workload without a template.
    """
    return pack(kernel_bundle(job))


def kernel_bundle(job: Job) -> Bundle:
    """One whose `main` calls the kernels of all points in turns; see `turns`.

    The kernels that its manifest lists are those of `job.points`, in their order; points with the
    same code have one function. Raises as `build` does.
    """
    target = job.target
    kernels = [pick(job.workload, target, point) for point in job.points]
    names = [name for name, _ in job.sizes]
    written = turns(kernels, names, job.cold_bytes, job.call_us)
    manifest = Manifest.describe(
        name="kernels",
        target=target,
        recipe="float32",
        inputs=written.inputs,
        outputs=(),
        dims={name: Dim() for name, _ in job.sizes},
        entries=(Entry("main", {}, ()),),
        kernels=tuple(
            KernelRecord("main", function, kernel.name, "", str(job.workload), (), None, None)
            for function, kernel in zip(written.functions, kernels, strict=True)
        ),
    )
    steps = [Step("lower_math", LowerMath(target)), *machine_code()]
    return code_bundle(written.module, steps, target, manifest)
