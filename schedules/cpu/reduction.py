"""Two ways to vectorise a reduction: many results at a time, or many terms of one."""

from __future__ import annotations

from typing import Any

from tvm.s_tir.schedule import ScheduleError

from pocketformer.schedules.cpu.block import Block, attempt

VECTORS = 4     # independent sums: an addition waits for its own last one only


def reduce_vectors(block: Block, last: Any, bound: list[Any], lanes: int) -> None:
    """A few vectors of results stay in a small buffer while the reduction runs outside of them."""
    sch, extent = block.sch, block.extent(last)
    width = lanes if extent is None or extent % (VECTORS * lanes) else VECTORS * lanes
    reader = block.spatial_reader()
    if reader is None:
        reader = sch.cache_write(block.rv, 0, "global")
    chunk, results = sch.split(last, [None, width])
    if not attempt(sch.reorder, chunk, *bound, results):
        return
    if attempt(sch.reverse_compute_at, reader, chunk):
        _vectorize(block, sch.get_loops(reader)[-1], lanes)
    _vectorize(block, results, lanes)
    attempt(sch.decompose_reduction, block.rv, bound[0])


def reduce_rows(block: Block, bound: list[Any], lanes: int) -> bool:
    """A vector of partial sums, added up at the end; False where the reduction is not so simple."""
    sch, extent = block.sch, block.extent(bound[-1])
    if extent is None or extent % lanes or len(block.stmt.writes) != 1:
        return False
    terms = sch.split(bound[-1], [None, lanes])[1]
    try:
        partial = sch.rfactor(terms, len(block.stmt.writes[0].region))
    except ScheduleError:
        return False
    last = sch.get_loops(block.rv)[-1]
    if attempt(sch.compute_at, partial, sch.get_loops(block.rv)[-2]):
        _, terms, *steps = sch.get_loops(partial)
        sch.reorder(*steps, terms)
        attempt(sch.vectorize, terms)
        attempt(sch.decompose_reduction, partial, steps[0])
    attempt(sch.decompose_reduction, block.rv, last)
    return True


def _vectorize(block: Block, loop: Any, lanes: int) -> None:
    extent = block.extent(loop)
    if extent is not None and extent % lanes == 0:
        attempt(block.sch.vectorize, block.sch.split(loop, [None, lanes])[1])
