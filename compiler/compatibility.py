"""Whether a machine and the TVM that is installed on it can run a bundle."""

from __future__ import annotations

from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.machine import Machine, this_machine
from pocketformer.compiler.manifest import Manifest, TargetRecord, version_of
from pocketformer.targets.host import WORDS


def refuse_machine(manifest: Manifest, machine: Machine | None = None) -> None:
    """Raise BadBundle if `machine` (this one) or the installed TVM cannot run the bundle."""
    machine, target = machine or this_machine(), manifest.target
    if (target.arch, target.os) != (machine.arch, machine.os):
        raise BadBundle(f"the bundle was compiled for {target}, this machine is {machine}")
    if missing := _missing(target, machine):
        raise BadBundle(
            f"the bundle was compiled for {target}, this machine's processor lacks {missing}"
        )
    version = version_of("apache-tvm")
    if manifest.tvm_version != version:
        raise BadBundle(
            f"the bundle was compiled with TVM {manifest.tvm_version}, installed is {version}"
        )


def _missing(target: TargetRecord, machine: Machine) -> str:
    if machine.isa is None or machine.words is None:
        return ""
    missing = [name for name in target.isa if name not in machine.isa]
    words = WORDS.get(target.arch, {})
    missing += [name for name in target.features if words.get(name, name) not in machine.words]
    return ", ".join(dict.fromkeys(missing))
