"""Which record of a workload to follow: measured before estimated, confirmed, the faster.

Of several records of one point under the same conditions the one with the middle gain speaks for
all: the best of many noisy times is a lucky one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

from pocketformer.compiler.tuning.points import encode_point, workload_key
from pocketformer.compiler.tuning.record import Record

Key = tuple[Hashable, ...]


def task_of(record: Record) -> Key:
    """What records must share to be compared: workload, sizes, processor, threads, TVM."""
    workload = record.workload
    sizes = tuple(sorted(record.sizes.items()))
    name = type(workload).__name__, workload_key(workload)
    return *name, sizes, record.core, record.threads, record.tvm


def ranked(records: Iterable[Record], threads: int) -> list[Record]:
    """One record a point and kind of record, the best first, in an order that depends on no file.

    Of two that are as sure, those for `threads` threads and of this pocketformer come first.
    """
    from pocketformer import __version__  # which imports whatever is asked of it

    def rank(record: Record) -> Key:
        return (
            record.source != "measured",
            not record.confirmed,
            record.threads != threads,
            record.pocketformer != __version__,
            -record.gain,
            record.median_us or 0.0,
            _text(record),
        )

    return sorted(_middles(records), key=rank)      


def best_of_each(records: Iterable[Record], keep: int = 1) -> list[Record]:
    """The best `keep` points of each task, of records that did not fail and of real devices."""
    usable = (record for record in records if not record.error and not record.emulated)
    best: list[Record] = []
    for group in _groups(usable, task_of):
        points: dict[str, Record] = {}
        for record in ranked(group, group[0].threads):
            points.setdefault(_text(record), record)
        best += list(points.values())[:keep]
    return best


def _middles(records: Iterable[Record]) -> list[Record]:
    def alike(record: Record) -> Key:
        kind = record.source, record.confirmed, record.pocketformer
        return *task_of(record), *kind, _text(record)

    def by_gain(record: Record) -> tuple[float, str]:
        return record.gain, record.time

    return [
        sorted(group, key=by_gain)[(len(group) - 1) // 2] for group in _groups(records, alike)
    ]


def _groups(records: Iterable[Record], key: Callable[[Record], Key]) -> list[list[Record]]:
    groups: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return list(groups.values())


def _text(record: Record) -> str:
    return json.dumps(encode_point(record.point), sort_keys=True)
