"""Families of processors: what LLVM knows, each core once, and the cores of our devices."""

from collections import Counter

import pytest
from tvm.target import codegen

from pocketformer import targets
from pocketformer.targets.device_file import read_device
from pocketformer.targets.kin import core_named, families, kin
from pocketformer.targets.target import PLATFORMS

TRIPLES = [PLATFORMS[arch, "linux"].triple for arch in ("x86_64", "aarch64")]
PHONES = [
    device for device in map(read_device, sorted(targets.DEVICES.glob("*.toml")))
    if not device.levels and device.arch == "aarch64"
]


@pytest.mark.parametrize("family", families(), ids=lambda family: family[0])
def test_llvm_knows_every_core_of_a_family_for_one_architecture(family):
    unknown = [[core for core in family if not codegen.llvm_is_valid_cpu(core, triple)]
               for triple in TRIPLES]
    assert [] in unknown


def test_a_core_stands_in_one_family():
    assert set(Counter(core for family in families() for core in family).values()) == {1}


def test_kin_of_a_core_begin_with_itself():
    assert kin("cortex-a78")[0] == "cortex-a78"
    assert "cortex-a76" in kin("cortex-a78")
    assert sorted(kin("cortex-a78")) == sorted(kin("cortex-a76"))


@pytest.mark.parametrize("device", PHONES, ids=lambda device: device.name)
def test_the_cores_of_a_phone_are_of_families(device):
    assert [each.mcpu for each in device.cores if not core_named(each.mcpu)] == []


def test_a_device_may_write_a_core_in_its_own_way():
    assert core_named("Cortex-A76") == "cortex-a76"


def test_an_unknown_core_is_its_own_only_kin():
    assert kin("cortex-z9") == ("cortex-z9",)
    assert core_named("Cortex-Z9") == ""
