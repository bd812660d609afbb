"""What is known of a device before and after a search: is it of the kind, what do kernels take."""

from dataclasses import dataclass, replace

import pytest

from pocketformer import targets
from pocketformer.compiler.device.info import Core, DeviceInfo
from pocketformer.compiler.errors import DeviceRefused
from pocketformer.compiler.tuning import in_model, prepare
from pocketformer.compiler.tuning.in_model import InModel, slower
from pocketformer.compiler.tuning.prepare import Prepared, Source
from pocketformer.compiler.tuning.recording import Setting
from pocketformer.compiler.tuning.records import core_of

HERE = prepare.this_machine()
FAT = targets.load("x86_64-linux")
PHONE = targets.load("pixel8")


def device(*cores: str, arch: str, os: str, memory: int, emulated: bool = False) -> DeviceInfo:
    kinds = tuple(Core(core, 1, None) for core in cores)
    return DeviceInfo(
        "pf", arch, os, None, kinds, memory, None, emulated, "", "", False, None, None)


def prepared(target: targets.Target, core: str) -> Prepared:
    setting = Setting(target.name, core, 4, "the first", False)
    none = InModel({}, {}, 4, None)
    return Prepared(Source(None, target, None), target, None, (), none, setting, (), None)


def test_another_machine_with_the_same_system_is_not_this_one():
    alike = device("Some CPU", arch=HERE.arch, os=HERE.os, memory=1)
    with pytest.raises(DeviceRefused, match="Some CPU cores"):
        prepared(FAT, core_of(targets.load("host"))).require_alike(alike)


def test_an_emulator_among_phones_is_refused():
    phone = device("Cortex-A510", "Cortex-X3", arch="aarch64", os="android", memory=1)
    ready = prepared(PHONE, core_of(PHONE))
    ready.require_alike(phone)
    with pytest.raises(DeviceRefused, match="is an emulator, the first is none"):
        ready.require_alike(replace(phone, emulated=True))


@dataclass(frozen=True)
class Kernel:
    workload: str
    tuned: str


class Opened:
    """A session of a bundle with these kernels, of which each profile takes these times."""

    def __init__(self, kernels: list[Kernel], *profiles: dict[str, float]) -> None:
        self.kernels, self.profiles = kernels, iter(profiles)
        self.bundle = self.manifest = self


def test_a_kernel_that_takes_longer_inside_the_model_is_named(monkeypatch):
    def profiled(session, *_):
        return InModel(next(session.profiles), {}, 1, None)

    monkeypatch.setattr(in_model, "profiled", profiled)
    kernels = [Kernel("slow", "a record"), Kernel("fast", "a record"), Kernel("same", "")]
    untuned = {"slow": 100.0, "fast": 100.0, "same": 100.0}
    before = Opened([], {**untuned, "slow": 140.0}, untuned)
    after = Opened(kernels, *[{"slow": 110.0, "fast": 80.0, "same": 120.0}] * 2)
    (found,) = slower(before, after, [{}], lambda *_: None)
    assert str(found).startswith("slow: all calls took 110 us inside the tuned model, 100 us")
