"""Whether a machine or a device, with its TVM, can run a bundle, and which of its levels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pocketformer.compiler.errors import BadBundle, BadInput, DeviceRefused
from pocketformer.compiler.machine import Machine, this_machine
from pocketformer.compiler.manifest import Manifest, version_of
from pocketformer.compiler.manifest_records import TargetRecord
from pocketformer.targets.host import WORDS
from pocketformer.targets.target import BASE

if TYPE_CHECKING:
    from pocketformer.compiler.device.info import DeviceInfo


LEVEL_VARIABLE = "POCKETFORMER_LEVEL"    # for tests, and to compare the levels of a bundle


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


def choose_level(manifest: Manifest, machine: Machine | None = None) -> str:
    """The last level of the bundle that `machine` (this one) runs; "" where it has none.

    That is the base where a machine does not tell what it has. POCKETFORMER_LEVEL names another
    one; a bundle without levels is the base alone. Raises BadInput where the bundle does not have
    it or the machine cannot run it.
    """
    machine = machine or this_machine()
    names = [level.name for level in manifest.levels]
    wanted = os.environ.get(LEVEL_VARIABLE)
    if wanted and wanted not in (has := names or [BASE]):
        raise BadInput(f"{LEVEL_VARIABLE} is {wanted!r}, the bundle has {', '.join(has)}")
    if not names:
        return ""
    if not wanted:
        told = machine.words is not None
        runs = [name for name in names if told and not _missing(manifest.at(name), machine)]
        return (runs or names[:1])[-1]
    if missing := _missing(manifest.at(wanted), machine):
        raise BadInput(
            f"{LEVEL_VARIABLE} is {wanted!r}, this machine's processor lacks {missing}"
        )
    return wanted


def refuse_device(manifest: Manifest, device: DeviceInfo) -> None:
    """Raise DeviceRefused if the device cannot run the bundle, and name what it lacks."""
    target = manifest.target
    if (target.arch, target.os) != (device.arch, device.os):
        raise DeviceRefused(
            f"the bundle was compiled for {target}, {device.name} is {device.arch} {device.os}"
        )
    if device.isa is not None and (missing := [x for x in target.isa if x not in device.isa]):
        raise DeviceRefused(
            f"the bundle was compiled for {target}, {device.name} lacks {', '.join(missing)}"
        )
    if manifest.tvm_version != device.tvm:
        raise DeviceRefused(
            f"the bundle was compiled with TVM {manifest.tvm_version}, "
            f"{device.name} has {device.tvm}"
        )


def _missing(target: TargetRecord, machine: Machine) -> str:
    if machine.isa is None or machine.words is None:
        return ""
    missing = [name for name in target.isa if name not in machine.isa]
    words = WORDS.get(target.arch, {})
    missing += [name for name in target.features if words.get(name, name) not in machine.words]
    return ", ".join(dict.fromkeys(missing))
