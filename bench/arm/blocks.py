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


def chains(region: Region) -> dict[Block, int]:
    """The region's code in pieces of which every instruction ran equally often, and how often.

    QEMU's own blocks overlap where code jumps into the middle of one, and end with a page of
    memory: a loop may be several of them.
    """
    ran: dict[tuple[int, int], int] = {}
    for block, times in region.times.items():
        for place, word in enumerate(block.words):
            key = block.address + 4 * place, word
            ran[key] = ran.get(key, 0) + times
    pieces: list[tuple[int, int, list[int]]] = []      # times, address, instructions
    end = None
    for (address, word), times in sorted(ran.items()):
        if address == end and pieces[-1][0] == times and falls_through(pieces[-1][2][-1]):
            pieces[-1][2].append(word)
        else:
            pieces.append((times, address, [word]))
        end = address + 4
    return {Block(address, tuple(words)): times for times, address, words in pieces}
