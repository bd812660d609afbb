"""Two ways to vectorise a reduction: many results at a time, or many terms of one."""

from __future__ import annotations

from typing import Any

from tvm.s_tir.schedule import ScheduleError

from pocketformer.schedules.cpu.block import UNKNOWN, Block, attempt

VECTORS = 4     # independent sums: an addition waits for its own last one only
ROWS = 4        # results that share a vector that was read


def split_rows(block: Block, free: list[Any]) -> tuple[list[Any], list[Any]]:
    """The loops outside of the last of `free`, and a few rows of one of them, where there are some
    that share what is read in vectors."""
    outer = free[:-1]
    for i in reversed(range(len(outer))):
        extent = block.extent(outer[i])
        if extent and extent % ROWS == 0 and block.shares_vectors(outer[i], free[-1]):
            outer[i], rows = block.sch.split(outer[i], [None, ROWS])
            block.sch.reorder(*outer, rows)
            return outer, [rows]
    return outer, []


def reduce_vectors(
    block: Block, last: Any, bound: list[Any], rows: list[Any], lanes: int
) -> None:
    """A few vectors of results stay in registers while the reduction runs outside of them."""
    sch, extent = block.sch, block.extent(last)
    lanes = vector_of(extent, lanes)
    most = VECTORS // 2 if rows else VECTORS
    width = lanes * next(
        (n for n in range(most, 1, -1) if extent is not None and extent % (n * lanes) == 0), 1)
    reader = block.spatial_reader()
    if reader is None:
        reader = sch.cache_write(block.rv, 0, "global")
    chunk, results = sch.split(last, [None, width])
    if not attempt(sch.reorder, chunk, *bound, *rows, results):
        return
    if attempt(sch.reverse_compute_at, reader, chunk):
        depth = len(sch.get_loops(block.rv)) - len([*bound, *rows, results])
        own = sch.get_loops(reader)[depth:]
        _unroll(block, own[:-1])
        if own:
            _vectorize(block, own[-1], lanes)
    _unroll(block, rows)
    _vectorize(block, results, lanes)
    attempt(sch.decompose_reduction, block.rv, bound[0])


def reduce_rows(block: Block, bound: list[Any], lanes: int) -> None:
    """A vector of partial sums, which are added up at the end."""
    sch = block.sch
    terms = sch.split(bound[-1], [None, lanes])[1]
    try:
        partial = sch.rfactor(terms, len(block.stmt.writes[0].region))
    except ScheduleError:      # such as the largest's index, a pair of results
        attempt(sch.decompose_reduction, block.rv, bound[0])
        return
    last = sch.get_loops(block.rv)[-1]
    if attempt(sch.compute_at, partial, sch.get_loops(block.rv)[-2]):
        _, terms, *steps = sch.get_loops(partial)
        sch.reorder(*steps, terms)
        attempt(sch.vectorize, terms)
        if steps:    # a single vector of terms has no loop to begin sums before
            attempt(sch.decompose_reduction, partial, steps[0])
    attempt(sch.decompose_reduction, block.rv, last)


def vector_of(extent: int | None, lanes: int) -> int:
    """The longest vector, of at least four numbers, that fills `extent`; else `lanes`."""
    return next((n for n in (lanes, lanes // 2, lanes // 4)
                 if n >= 4 and extent is not None and extent % n == 0), lanes)


def _vectorize(block: Block, loop: Any, lanes: int) -> None:
    extent = block.extent(loop)
    if extent is not None and extent % lanes == 0:
        vectors, numbers = block.sch.split(loop, [None, lanes])
        attempt(block.sch.vectorize, numbers)
        _unroll(block, [vectors])


def _unroll(block: Block, loops: list[Any]) -> None:
    """Registers have no computed index."""
    for loop in loops:
        if (block.extent(loop) or UNKNOWN) <= max(ROWS, VECTORS):
            attempt(block.sch.unroll, loop)
