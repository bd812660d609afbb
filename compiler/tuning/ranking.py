"""Which record of a workload to follow: the surest, of those confirmed ones, then the fastest.

Of several records of one point under the same conditions the one with the middle gain speaks for
all: the best of many noisy times is a lucky one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

from pocketformer.compiler.tuning.points import Point, encode_point, workload_key
from pocketformer.compiler.tuning.record import MEASURED, Record

Key = tuple[Hashable, ...]


def order_of(point: Point) -> str:
    """A text to sort points by, the same in every run."""
    return json.dumps(encode_point(point), sort_keys=True)


def task_of(record: Record) -> Key:
    """What records must share to be compared: workload, sizes, processor, threads, TVM, default."""
    sizes = tuple(sorted(record.sizes.items()))
    default = order_of(record.default) if record.default else ""
    where = record.core, record.threads, record.tvm
    return workload_key(record.workload), sizes, *where, default


def sureness(record: Record, threads: int) -> tuple[bool, bool, bool]:
    """The greater, the more `record` says about `threads` threads; less sure ones do not count.

    A measured time is surer than an estimate, then one with as many threads, then one of this
    pocketformer's kernels.
    """
    from pocketformer import __version__  # which imports whatever is asked of it

    return (
        record.source == MEASURED, record.threads == threads, record.pocketformer == __version__
    )


def ranked(records: Iterable[Record], threads: int) -> list[Record]:
    """One record a point and kind of record, the best first, in an order that depends on no file.

    Of those that are as sure, the ones that were confirmed come first.
    """

    def rank(record: Record) -> Key:
        return (
            *(not each for each in sureness(record, threads)),
            not record.confirmed,
            -record.gain,
            record.median_us or 0.0,
            order_of(record.point),
        )

    return sorted(_middles(records), key=rank)


def best_of_each(records: Iterable[Record], keep: int = 1) -> list[Record]:
    """The best `keep` points of each task, of records that did not fail and of real devices."""
    usable = (record for record in records if not record.error and not record.emulated)
    best: list[Record] = []
    for group in _groups(usable, task_of):
        points: dict[str, Record] = {}
        for record in ranked(group, group[0].threads):
            points.setdefault(order_of(record.point), record)
        best += list(points.values())[:keep]
    return best


def one_failure_each(records: Iterable[Record]) -> list[Record]:
    """The last failure of each point in each task, which need not be tried again."""
    failed = (record for record in records if record.error)
    return [group[-1] for group in _groups(failed, _alike)]


def _alike(record: Record) -> Key:
    """What records share that were made in the same way."""
    kind = record.source, record.confirmed, record.emulated, record.pocketformer
    return *task_of(record), *kind, order_of(record.point)


def _middles(records: Iterable[Record]) -> list[Record]:
    def by_gain(record: Record) -> tuple[float, str]:
        return record.gain, record.time

    return [
        sorted(group, key=by_gain)[(len(group) - 1) // 2] for group in _groups(records, _alike)
    ]


def _groups(records: Iterable[Record], key: Callable[[Record], Key]) -> list[list[Record]]:
    groups: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return list(groups.values())
