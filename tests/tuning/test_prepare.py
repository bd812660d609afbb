"""What is known of a device before and after a search: is it of the kind, what do kernels take."""

from dataclasses import dataclass, replace

import pytest

from pocketformer import targets
from pocketformer.compiler.device.info import Core, DeviceInfo
from pocketformer.compiler.errors import DeviceRefused
from pocketformer.compiler.tuning import in_model, prepare
from pocketformer.compiler.tuning.flow import Outcome, Proposal
from pocketformer.compiler.tuning.in_model import InModel, slower
from pocketformer.compiler.tuning.options import Options
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.prepare import Prepared, Source
from pocketformer.compiler.tuning.record_file import RecordFile
from pocketformer.compiler.tuning.recording import Setting
from pocketformer.compiler.tuning.records import Records, core_of
from pocketformer.compiler.tuning.tuner import Tuner
from tests.tuning.test_scheduler import WIDE, job, measured, state

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


def test_what_an_odd_device_measured_is_lost_and_ends_nothing(tmp_path):
    tuner = Tuner.__new__(Tuner)        # without a model
    tuner._options = Options("rpc://127.0.0.1:9190/pf", records=tmp_path / "r.jsonl")
    tuner._file, tuner._notes = RecordFile(tmp_path / "r.jsonl"), {}
    tuner._ready = prepared(PHONE, core_of(PHONE))
    phone = device("Cortex-A510", "Cortex-X3", arch="aarch64", os="android", memory=1)
    work = job(WIDE, points_of(WIDE.workload, PHONE)[:2])
    proposal = Proposal(state(WIDE, 1.0), work, 1.0)
    alike = replace(measured(work, lambda point: 0.9), info=phone)
    odd = [replace(alike, threads=8), replace(alike, info=replace(phone, emulated=True))]
    for told in odd:
        outcome = tuner._record(Outcome(proposal, told))
        assert outcome.measured is None
        assert any(outcome.trouble in note for note in tuner._notes)
    assert not tuner._file.path.exists()
    assert tuner._record(Outcome(proposal, alike)).measured
    assert len(Records.load(tuner._file.path)) == 1


@dataclass(frozen=True)
class Kernel:
    workload: str
    tuned: str
    function: str = ""


class Opened:
    """A session of a bundle with these kernels, of which each profile takes these times."""

    def __init__(self, kernels: list[Kernel], *profiles: dict[str, float]) -> None:
        self.kernels, self.profiles = kernels, iter(profiles)
        self.bundle = self.manifest = self


def test_a_kernel_that_takes_longer_inside_the_model_is_named(monkeypatch):
    def profiled(session, *_):
        taken = next(session.profiles)
        rest = {name: us for name, us in taken.items() if name == "pool"}
        return InModel({name: taken[name] for name in taken.keys() - rest}, rest, 1, None)

    monkeypatch.setattr(in_model, "profiled", profiled)
    kernels = [Kernel("slow", "a record"), Kernel("fast", "a record"), Kernel("same", "")]
    kernels += [Kernel("", "a record", "pool"), Kernel("", "a record", "only here")]
    untuned = {"slow": 100.0, "fast": 100.0, "same": 100.0, "pool": 50.0}
    before = Opened([], {**untuned, "slow": 140.0}, untuned)
    tuned = {"slow": 110.0, "fast": 80.0, "same": 120.0, "pool": 90.0, "only here": 1.0}
    after = Opened(kernels, tuned, tuned)
    rest, found = slower(before, after, [{}], lambda *_: None)
    assert rest.workload == "pool"
    assert str(found).startswith("slow: all calls took 110 us inside the tuned model, 100 us")
