"""Builders on a dask cluster: two workers of this machine, and what may happen to them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from pocketformer.compiler.errors import BuildFailed, MissingPackage, SetUpFailed
from pocketformer.compiler.tuning import cluster as builders_of_cluster
from pocketformer.compiler.tuning import cluster_client, cluster_worker
from pocketformer.compiler.tuning.bundle_files import unpack
from pocketformer.compiler.tuning.cluster import ClusterBuilders
from tests.device.jobs import job, tar
from tests.tuning.dask_cluster import Cluster

LONG = 300.0    # seconds for what takes one or two on an idle machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("dask")) as started:
        yield started


@contextmanager
def building(cluster: Cluster, said: list[str] | None = None) -> Iterator[ClusterBuilders]:
    told = [] if said is None else said
    builders = ClusterBuilders(cluster.address, LONG, lambda step, _: told.append(step))
    try:
        yield builders
    finally:
        builders.close()


def test_a_cluster_builds_what_this_machine_builds(cluster, tmp_path):
    with building(cluster) as builders:
        assert builders.workers == 2
        for each in ("there", "here"):
            (tmp_path / each).mkdir()
        there = unpack(builders.submit(job("")).result(LONG), tmp_path / "there")
        here = unpack(tar(job("")), tmp_path / "here")
        assert there.manifest.kernels == here.manifest.kernels
        assert there.library.read_bytes() == here.library.read_bytes()


def test_what_cannot_be_built_is_said(cluster):
    wrong = replace(job(""), points=("no point",))
    with building(cluster) as builders:
        with pytest.raises(BuildFailed, match="linear_4x64x32 by no point cannot be built"):
            builders.submit(wrong).result(LONG)
        with pytest.raises(BuildFailed):        # dask would answer the same job with its old error
            builders.submit(wrong).result(LONG)
        assert builders.submit(job("")).result(LONG)


def test_a_worker_that_is_lost_leaves_its_builds_to_others(cluster):
    with building(cluster) as builders:
        futures = [builders.submit(job(*[""] * more)) for more in (0, 1, 2, 0, 1, 2)]
        pids = builders._client.run(os.getpid)
        os.kill(pids.popitem()[1], 9)
        assert all(future.result(LONG) for future in futures)
        until = time.monotonic() + LONG
        while builders.workers != 2:            # dask has started another
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_look_without_an_answer_takes_no_builds_from_their_workers(cluster, monkeypatch):
    with building(cluster) as builders:
        nthreads, looks = builders._client.nthreads, []

        def silent_at_first():
            looks.append(None)
            if len(looks) == 1:
                raise TimeoutError
            return nthreads()

        monkeypatch.setattr(builders._client, "nthreads", silent_at_first)
        future = builders.submit(job(""))
        (wanted,) = builders._open
        task = wanted.task
        until = time.monotonic() + LONG
        while not looks:
            assert builders.workers == 2
            assert time.monotonic() < until
            time.sleep(0.01)
        assert builders.workers == 2
        assert wanted.task is task
        assert future.result(LONG)


def test_a_client_that_was_closed_hangs_nobody(cluster, monkeypatch):
    monkeypatch.setattr(builders_of_cluster, "cpus", lambda: [0])
    with building(cluster) as builders:
        builders._client.close()
        assert builders.submit(job("")).result(LONG)


def test_closing_cancels(cluster):
    with building(cluster) as builders:
        futures = [builders.submit(job("")) for _ in range(6)]
        builders.close()
        assert futures[-1].cancelled()
        for future in futures:
            if not future.done():
                with pytest.raises(CancelledError):
                    future.result(LONG)


def test_a_worker_of_another_version_builds_nothing(cluster, monkeypatch):
    monkeypatch.setattr(cluster_worker, "version", lambda name: "0.1")      # here, not there
    with pytest.raises(SetUpFailed, match=r"0\.27\.0\S* is one's TVM, 0\.1 is installed here"):
        ClusterBuilders(cluster.address)


@pytest.mark.parametrize(("address", "words"), [
    ("tcp://127.0.0.1:1", "no dask scheduler answers at tcp://127.0.0.1:1"),
    ("127.0.0.1", "no dask scheduler answers at 127.0.0.1"),
    ("nonsense://x:1", "no dask scheduler answers at nonsense://x:1"),
], ids=["nobody", "port", "protocol"])
def test_an_address_without_a_scheduler_is_refused(address, words, monkeypatch):
    monkeypatch.setattr(cluster_client, "ANSWER", 1.0)
    with pytest.raises(SetUpFailed, match=words) as error:
        ClusterBuilders(address)
    assert "\n" not in str(error.value)


def test_without_its_scheduler_this_machine_builds(cluster, monkeypatch):
    """The last test here: it ends the cluster."""
    monkeypatch.setattr(cluster_client, "ANSWER", 5.0)
    monkeypatch.setattr(builders_of_cluster, "cpus", lambda: [0])     # one process is enough
    said: list[str] = []
    with building(cluster, said) as builders:
        workers = [psutil.Process(pid) for pid in builders._client.run(os.getpid).values()]
        futures = [builders.submit(job(*[""] * more)) for more in range(3)]
        cluster.kill()
        assert all(future.result(LONG) for future in futures)
        assert said == [f"the scheduler at {cluster.address} is gone: building on this machine"]
        assert not psutil.wait_procs(workers, LONG)[1]


def test_the_package_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackage, match=r"pip install 'pocketformer\[cluster\]'"):
        ClusterBuilders("tcp://127.0.0.1:1")
