"""Cycles of code whose speed the cores' own optimization guides tell."""

import pytest

from bench.arm import llvm
from bench.arm.blocks import RUN, Block, Region
from bench.arm.judge import DEVICES, core_cycles, cores_of, hottest

FMLA = 0x4E20CC00       # fmla v0.4s, v0.4s, v0.4s


def fmla(result, left, right):
    return FMLA | right << 16 | left << 5 | result


# Sixteen sums that do not wait for one another, and one sum that waits for itself.
WIDE = tuple(fmla(result, 30, 31) for result in range(16))
CHAIN = (fmla(0, 30, 31),) * 16


@pytest.mark.parametrize(
    ("core", "a_cycle"),
    [("cortex-a76", 2), ("cortex-a78", 2), ("cortex-a715", 2),
     ("cortex-x1", 4), ("cortex-x3", 4), ("cortex-x4", 4)],
)
def test_multiply_adds_a_cycle_are_the_core_s(core, a_cycle):
    (cycles,) = llvm.cycles([WIDE], llvm.MODELS[core])
    assert cycles == pytest.approx(len(WIDE) / a_cycle, rel=0.1)


def test_sums_that_wait_for_each_other_take_their_latency():
    wide, chain = llvm.cycles([WIDE, CHAIN], "neoverse-n1")
    assert chain > 3 * wide


def test_unknown_instruction_costs_what_the_others_do():
    known, unknown = llvm.cycles([WIDE, (*WIDE, 0xFFFFFFFF)], "neoverse-n1")
    assert unknown == pytest.approx(known * 17 / 16, rel=0.02)


def test_disassembly_keeps_the_place_of_every_instruction():
    lines = llvm.disassemble([fmla(1, 2, 3), 0xFFFFFFFF, 0xD65F03C0])
    assert [line.split() for line in lines] == [["fmla", "v1.4s,", "v2.4s,", "v3.4s"], [], ["ret"]]


def test_region_s_cycles_are_those_of_its_code_times_its_runs():
    region = Region(RUN, 0, {Block(0, WIDE): 1000, Block(4096, (*WIDE, 0xD65F03C0)): 10})
    (cycles,) = core_cycles([region], "cortex-a76")
    assert cycles == pytest.approx(8 * 1010, rel=0.05)
    (loop, *_) = hottest(region, "cortex-a76")
    assert (loop.times, loop.counts.fmla) == (1000, 16)
    assert loop.cycles == pytest.approx(8, rel=0.05)


def test_every_device_has_a_core_that_can_be_judged():
    assert {core.device for core in cores_of()} == set(DEVICES)
    assert all(core.name in llvm.MODELS for core in cores_of())
