"""Building jobs in processes that may crash, hang or refuse."""

import errno
import io
import pickle
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace

import psutil
import pytest

from pocketformer.compiler.errors import BuildFailed, BuildLost
from pocketformer.compiler.tuning import kernel_bundle
from pocketformer.compiler.tuning.builder import LocalBuilders, serve
from pocketformer.compiler.tuning.bundle_files import unpack
from pocketformer.schedules.workloads import Norm
from tests.tuning.jobs import job_of

SMALL = Norm(4, 32, "rms", 1e-6)
LONG = 300.0    # seconds for what takes one or two on an idle machine


@pytest.fixture(scope="module")
def builders() -> Iterator[LocalBuilders]:
    with LocalBuilders(1, LONG) as builders:
        yield builders


def processes() -> list[psutil.Process]:
    """Those of builders that this process has started."""
    return [
        child for child in psutil.Process().children()
        if "pocketformer.compiler.tuning.builder" in child.cmdline()
    ]


def until(ready: object) -> None:
    limit = time.monotonic() + LONG
    while not ready():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_job_becomes_a_bundle(builders, tmp_path):
    job = job_of(SMALL, 2)
    bundle = unpack(builders.submit(job).result(LONG), tmp_path)
    assert len(bundle.manifest.kernels) == 2
    assert builders.workers == 1


def test_a_job_that_cannot_be_built_is_named(builders):
    job = job_of(SMALL, 2)
    bad = replace(job, points=(job.points[0], replace(job.points[0], isa="nothing")))
    with pytest.raises(BuildFailed, match=r"^rmsnorm_4x32 by RowNorm\(isa='nothing'.* cannot be"):
        builders.submit(bad).result(LONG)
    with pytest.raises(BuildFailed, match="rmsnorm_4x32 by one of 2 points of RowNorm cannot be"):
        builders.submit(replace(bad, points=(*bad.points, *bad.points[1:]))).result(LONG)
    assert builders.submit(job).result(LONG)


def test_a_process_that_dies_takes_one_job_with_it(builders):
    job = job_of(SMALL, 2)
    builders.submit(job).result(LONG)
    (process,) = processes()
    process.suspend()       # the job has come, and is not done
    lost, next_one = builders.submit(job), builders.submit(job)
    until(lost.running)
    process.kill()
    with pytest.raises(BuildLost, match="the process ended with code -9"):
        lost.result(LONG)
    assert next_one.result(LONG)


def test_a_compiler_that_crashes_is_the_points_fault(builders):
    job = job_of(SMALL, 2)
    builders.submit(job).result(LONG)
    (process,) = processes()
    process.suspend()
    crashed = builders.submit(job)
    until(crashed.running)
    process.send_signal(signal.SIGSEGV)
    process.resume()
    with pytest.raises(BuildFailed, match="the process ended with code -11") as error:
        crashed.result(LONG)
    assert error.type is BuildFailed


def test_a_full_disk_is_no_points_fault(monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kernel_bundle, "build", full)
    answers = io.BytesIO()
    serve(io.BytesIO(pickle.dumps(job_of(SMALL, 2))), answers)
    answers.seek(0)
    ready, answer = pickle.load(answers), pickle.load(answers)
    assert ready == (None, "", None)
    assert answer == (BuildLost, "[Errno 28] No space left on device", None)


def test_a_job_has_a_time_limit_and_close_ends_all():
    job = job_of(SMALL, 2)
    builders = LocalBuilders(1, 0.01)
    with pytest.raises(BuildLost, match=r"it took over 0\.01 s"):
        builders.submit(job).result(LONG)
    late, waiting = builders.submit(job), builders.submit(job)
    builders.close()
    for future in (late, waiting):
        with pytest.raises((BuildFailed, CancelledError)):
            future.result(LONG)
