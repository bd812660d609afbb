"""What count_blocks.c wrote: the blocks of code that ran in a region, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bench.arm.instructions import Counts, count, falls_through

RUN, KERNEL = 3, 1      # phases: a whole run of a model, one kernel within it


@dataclass(frozen=True)
class Block:
    """Instructions that run from the first to the last."""

    address: int
    words: tuple[int, ...]

    @cached_property
    def counts(self) -> Counts:
        return count(self.words)

    @property
    def end(self) -> int:
        return self.address + 4 * len(self.words)


@dataclass(frozen=True)
class Region:
    """What ran between two marks: its phase and index, and how often each block did."""

    phase: int
    index: int
    times: Mapping[Block, int] = field(default_factory=dict)

    @cached_property
    def counts(self) -> Counts:
        return sum((block.counts * times for block, times in self.times.items()), Counts())


def read_regions(path: Path) -> list[Region]:
    """The regions in the file `path`, in the order in which they were closed."""
    return list(_regions(path.read_text().splitlines()))


def _regions(lines: Iterable[str]) -> Iterator[Region]:
    blocks: dict[str, Block] = {}
    times: dict[Block, int] = {}
    phase = index = 0
    for line in lines:
        match line.split():
            case ["code", number, address, *words]:
                blocks[number] = Block(int(address, 16), tuple(int(word, 16) for word in words))
            case ["region", which, place]:
                phase, index, times = int(which), int(place), {}
            case ["end"]:
                yield Region(phase, index, times)
            case [number, runs]:
                times[blocks[number]] = times.get(blocks[number], 0) + int(runs)


def merge(regions: Iterable[Region]) -> Region:
    """All that ran in several regions of one phase, as one; its index is the first one's."""
    regions = list(regions)
    times: dict[Block, int] = {}
    for region in regions:
        for block, runs in region.times.items():
            times[block] = times.get(block, 0) + runs
    return Region(regions[0].phase, regions[0].index, times)


def chains(region: Region) -> dict[Block, int]:
    """The region's blocks with those joined that always run one after the other.

    QEMU ends a block at every jump and at the end of a page: a loop may be several of them.
    """
    joined: dict[Block, int] = {}
    last: Block | None = None
    for block, times in sorted(region.times.items(), key=lambda item: item[0].address):
        if (
            last is not None
            and last.end == block.address
            and joined[last] == times
            and falls_through(last.words[-1])
        ):
            del joined[last]
            last = Block(last.address, last.words + block.words)
        else:
            last = block
        joined[last] = times
    return joined
