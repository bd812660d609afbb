"""From counted regions to estimated cycles: what ran times how long it takes a core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.arm import llvm
from bench.arm.blocks import Block, Region, chains
from bench.arm.instructions import Counts
from pocketformer import targets

ESTIMATED = "estimated, core-bound (llvm-mca: all data in the first cache, all jumps foreseen)"
COVERED = 0.995      # of a region's instructions are simulated; the rest costs as much as these
# Devices whose cores stand for most phones of the last years, and a board that many have.
SHOWN = "cortex-a76"      # the core of tables that have room for one
DEVICES = ("raspberrypi5", "pixel6", "pixel8", "galaxys24")


@dataclass(frozen=True)
class Core:
    """A core of a device, and the clock in GHz that its maker gives."""

    name: str
    ghz: float
    device: str


def cores_of(devices: Iterable[str] = DEVICES) -> list[Core]:
    """The different kinds of cores in the device files that LLVM has a model of."""
    found: dict[str, Core] = {}
    for device in devices:
        for cluster in targets.load(device).cores:
            if cluster.mcpu in llvm.MODELS and cluster.max_ghz:
                found.setdefault(cluster.mcpu, Core(cluster.mcpu, cluster.max_ghz, device))
    return list(found.values())


def core_cycles(regions: Sequence[Region], core: str) -> list[float]:
    """The cycles that each region takes on `core`, a key of llvm.MODELS; see `ESTIMATED`.

    Code that runs over and over is simulated as such, so that a short loop is the estimate's
    best case, and code that runs once is taken to overlap with itself.
    """
    model = llvm.MODELS[core]
    weighed = [_weighed(region) for region in regions]
    _simulate({block.words for blocks in weighed for block, _ in blocks}, model)
    return [_sum(region, blocks, model) for region, blocks in zip(regions, weighed, strict=True)]


@dataclass(frozen=True)
class Loop:
    """Code that runs in one piece: how often, and instructions and cycles of one pass."""

    times: int
    counts: Counts
    cycles: float


def hottest(region: Region, core: str, most: int = 3) -> list[Loop]:
    """The code that most instructions are in, with its cycles on `core`."""
    model, blocks = llvm.MODELS[core], _by_weight(region)[:most]
    _simulate({block.words for block, _ in blocks}, model)
    return [Loop(times, block.counts, _known[block.words, model]) for block, times in blocks]


def _by_weight(region: Region) -> list[tuple[Block, int]]:
    return sorted(chains(region).items(), key=lambda each: -len(each[0].words) * each[1])


def _weighed(region: Region) -> list[tuple[Block, int]]:
    """The blocks that make up COVERED of what ran, the heaviest first."""
    left, chosen = COVERED * region.counts.total, []
    for block, times in _by_weight(region):
        if left <= 0:
            break
        chosen.append((block, times))
        left -= len(block.words) * times
    return chosen


_known: dict[tuple[llvm.Words, str], float] = {}


def _simulate(blocks: Iterable[llvm.Words], model: str) -> None:
    new = sorted({words for words in blocks if (words, model) not in _known})
    if new:
        for words, cycles in zip(new, llvm.cycles(new, model), strict=True):
            _known[words, model] = cycles


def _sum(region: Region, blocks: Sequence[tuple[Block, int]], model: str) -> float:
    cycles = sum(_known[block.words, model] * times for block, times in blocks)
    instructions = sum(len(block.words) * times for block, times in blocks)
    return cycles * region.counts.total / instructions if instructions else 0.0
