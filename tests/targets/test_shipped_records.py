"""The records that come with pocketformer: a file for each processor, all of it and this TVM."""

from collections import defaultdict

import pytest

from pocketformer import targets
from pocketformer.compiler.tuning.candidates import PROMISED
from pocketformer.compiler.tuning.choices import WORTHWHILE, choose
from pocketformer.compiler.tuning.given import SHIPPED
from pocketformer.compiler.tuning.points import legal
from pocketformer.compiler.tuning.records import Records, unfit
from pocketformer.compiler.tuning.survey import Use
from pocketformer.schedules.workloads import Workload

FILES = sorted(SHIPPED.glob("*.jsonl"))
KNOWN = [targets.load(name) for name in targets.available()]


def test_there_are_shipped_records():
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_records_are_of_their_file_s_processor_and_fit(file):
    records = Records.load(file)
    assert not records.skipped
    assert {unfit(record, file.stem) for record in records} == {""}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_records_are_of_points_that_there_are(file):
    ours = [target for target in KNOWN if target.cores[0].mcpu == file.stem]
    if not ours:
        pytest.skip(f"no device file here is for {file.stem}")
    for record in Records.load(file):
        assert any(legal(record.point, record.workload, target) for target in ours), record


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_records_are_followed_where_they_promise_enough(file):
    """Those that promise less tell that the default point is a good one, and start searches."""
    records = Records.load(file)
    best: dict[Workload, float] = defaultdict(float)
    for record in records:
        asked = PROMISED if record.source == "estimated" else WORTHWHILE
        best[record.workload] = max(best[record.workload], record.gain / asked)
    promising = {workload for workload, gain in best.items() if gain >= 1.0}
    uses = [Use("main", workload, (), None) for workload in best]
    for target in KNOWN:
        if target.cores[0].mcpu == file.stem and not target.levels:
            chosen = set(choose(uses, [target], records).at(target.level))
            assert chosen <= promising
            assert bool(chosen) == bool(promising)
