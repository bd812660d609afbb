"""The records that come with pocketformer: a file for each processor, all of use for it."""

import pytest

from pocketformer import targets
from pocketformer.compiler.tuning.given import SHIPPED
from pocketformer.compiler.tuning.points import legal
from pocketformer.compiler.tuning.records import Records, unfit

FILES = sorted(SHIPPED.glob("*.jsonl"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_records_are_of_their_file_s_processor_and_fit(file):
    records = Records.load(file)
    assert not records.skipped
    assert {unfit(record, file.stem) for record in records} == {""}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_records_are_of_points_that_there_are(file):
    known = [targets.load(name) for name in targets.available()]
    ours = [target for target in known if target.cores[0].mcpu == file.stem]
    if not ours:
        pytest.skip(f"no device file here is for {file.stem}")
    for record in Records.load(file):
        assert any(legal(record.point, record.workload, target) for target in ours), record
