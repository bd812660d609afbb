"""The threads that share loops: each iteration once in all circumstances, and no idle waiting."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path

import pytest
import tvm_ffi

from pocketformer import runtime
from pocketformer.compiler.device.emulator import run_program
from pocketformer.compiler.pool import pool_objects
from pocketformer.runtime import sources, toolchain
from pocketformer.targets import load

HERE = Path(__file__).parent


def compile_checks(target: str, output: Path, *options: str) -> Path:
    """pool_check.c with the pool that a model.so for `target` gets."""
    chosen = load(target)
    tools = toolchain.find(chosen.arch, chosen.os, None)
    flags = [*sources.pool_sources()[0].flags, "-fvisibility=default", f"-I{sources.HERE}"]
    pool = next(path for path in pool_objects(chosen) if path.name.startswith("pool"))
    subprocess.run(
        [*tools.cc, *flags, str(HERE / "pool_check.c"), str(pool), *options, "-o", str(output)],
        check=True, env={"PATH": "", **tools.environment}, timeout=600,
    )
    return output


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    tvm_ffi.libinfo.load_lib_ctypes("apache-tvm-ffi", "tvm_ffi", "RTLD_GLOBAL")
    folder = tmp_path_factory.mktemp("pool")
    return ctypes.CDLL(str(compile_checks("host", folder / "pool_check.so", "-shared")))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize(("launches", "nested"), [(3000, False), (200, True)])
def test_each_iteration_runs_once(
    threads: int, launches: int, nested: bool, checks: ctypes.CDLL
) -> None:
    assert checks.check_loops(threads, launches, nested) == 0


@pytest.mark.parametrize(("callers", "threads"), [(4, 2), (3, 3), (80, 1), (80, 2)])
def test_callers_at_once_do_not_meet(callers: int, threads: int, checks: ctypes.CDLL) -> None:
    assert checks.check_callers(callers, threads) == 0


@pytest.mark.parametrize(("threads", "at"), [(1, 5), (2, 0), (2, 1), (2, 59), (4, 30)])
def test_a_failure_is_the_callers(threads: int, at: int, checks: ctypes.CDLL) -> None:
    assert checks.check_failure(threads, at) == 0


@pytest.mark.parametrize(("threads", "tasks"), [(2, 64), (2, 2), (3, 7)])
def test_a_thread_that_is_held_up_holds_up_no_other_task(
    threads: int, tasks: int, checks: ctypes.CDLL
) -> None:
    assert checks.check_no_share_is_bound(threads, tasks) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_as_many_threads_work_as_were_asked_for(threads: int, checks: ctypes.CDLL) -> None:
    assert checks.threads_of_many_loops(threads) == threads


def test_teams_of_another_size_take_the_places_of_idle_ones(checks: ctypes.CDLL) -> None:
    most = checks.teams_at_once(2)
    assert most >= 64
    threads = len(os.listdir("/proc/self/task"))
    assert [checks.teams_at_once(size) for size in (4, 3, 2)] == [most] * 3
    end = time.monotonic() + 30    # a thread that was joined may be listed for a moment
    while len(os.listdir("/proc/self/task")) > threads and time.monotonic() < end:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) <= threads


def test_a_run_within_a_run_leaves_the_outer_one_as_it_was(checks: ctypes.CDLL) -> None:
    assert checks.check_runs_within_runs() == 0


@pytest.mark.parametrize("within", [False, True])
def test_a_child_of_fork_shares_loops_with_threads_of_its_own(
    within: bool, checks: ctypes.CDLL
) -> None:
    assert checks.fork_and_check(within, 2) == 0


@pytest.mark.usefixtures("emulator")
def test_the_same_on_the_emulated_phone(tmp_path: Path) -> None:
    library = runtime.build("arm64-linux").library
    program = compile_checks(
        "arm64-linux", tmp_path / "checks", str(library), f"-Wl,-rpath,{library.parent}")
    assert run_program([program], timeout=3000).returncode == 0
