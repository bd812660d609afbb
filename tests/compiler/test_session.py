"""Session: runs by name, refuses what does not fit, and stays light."""

import gc
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer import compile
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.errors import BadBundle, BadInput
from pocketformer.compiler.local import empty_aligned
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.manifest_records import Entry
from pocketformer.compiler.model import Dim, TensorSpec
from pocketformer.compiler.session import Session
from tests.compiler.kinds import of_kinds, save_kinds
from tests.compiler.loops import Checked, Parallel, save_parallel
from tests.compiler.tiny import (
    build,
    expected,
    inputs,
    one_sentence,
    tiny_manifest,
    tiny_weights,
)

two_cpus = pytest.mark.skipif(len(cpus()) < 2, reason="needs two CPUs")


@pytest.fixture
def session(bundle: Bundle) -> Session:
    return Session(bundle)


def assert_right(found: np.ndarray, given: dict[str, np.ndarray], factor: int = 1) -> None:
    np.testing.assert_allclose(found, factor * expected(**given), rtol=1e-5, atol=1e-5)


def refusal(session: Session, *args: object, **given: object) -> str:
    with pytest.raises(BadInput) as error:
        session.run(*args, **given)
    return one_sentence(error)


# Running

def test_outputs_come_by_name(session):
    given = inputs()
    found = session.run(**given)
    assert list(found) == ["hidden", "same"]
    assert_right(found["hidden"], given)
    np.testing.assert_array_equal(found["same"], given["x"])


def test_a_path_is_enough(saved):
    given = inputs()
    assert_right(Session(str(saved)).run(given)["hidden"], given)


@pytest.mark.parametrize("seq", [1, 3, 4, 5, 700])
def test_the_entry_for_the_given_sizes_runs(seq, session):
    given = inputs(2, seq)
    assert_right(session.run(**given)["hidden"], given, factor=2 if seq == 4 else 1)


def test_the_entry_that_fixes_most_wins(bundle):
    entries = (
        Entry("main", {"seq": 4}, ("w", "c")),
        Entry("main_seq_4", {"seq": 4, "batch": 1}, ("c", "w")),
    )
    session = Session(replace(bundle, manifest=replace(bundle.manifest, entries=entries)))
    assert_right(session.run(inputs(1, 4))["hidden"], inputs(1, 4), factor=2)
    assert_right(session.run(inputs(2, 4))["hidden"], inputs(2, 4))
    assert refusal(session, inputs(1, 5)) == (
        "no code was compiled for batch 1, seq 5; the bundle has seq 4; seq 4, batch 1"
    )


def test_arrays_that_are_not_contiguous_or_aligned_or_writable_are_taken(session):
    given = inputs(2, 5)
    turned = np.asfortranarray(given["x"])
    shifted = np.empty(given["x"].nbytes + 4, np.uint8)[4:].view(np.float32).reshape(2, 5, 8)
    shifted[:] = given["x"]
    fixed = given["x"].copy()
    fixed.flags.writeable = False
    for x in (turned, shifted, fixed, np.repeat(given["x"], 2, axis=1)[:, ::2]):
        assert_right(session.run(x=x, shift=given["shift"])["hidden"], given)


def test_a_large_aligned_input_is_read_in_place_and_left_alone(session):
    given = inputs(4, 700)
    aligned = empty_aligned(given["x"].shape, given["x"].dtype)
    aligned[:] = given["x"]
    found = session.run(x=aligned, shift=given["shift"])
    assert_right(found["hidden"], given)
    assert not np.shares_memory(found["same"], aligned)
    found["same"][:] = 0
    np.testing.assert_array_equal(aligned, given["x"])


@pytest.mark.parametrize("seq", [3, 40, 700])            # results that are copied, and that are not
def test_a_later_run_leaves_earlier_results_alone(seq, session):
    given = [{name: i * array for name, array in inputs(4, seq).items()} for i in range(4)]
    found = [session.run(**each) for each in given]
    del session
    gc.collect()
    for each, result in zip(given, found, strict=True):
        assert_right(result["hidden"], each)
        np.testing.assert_array_equal(result["same"], each["x"])
        assert all(array.flags.writeable for array in result.values())


def test_outputs_that_are_views_of_one_tensor_are_apart(tmp_path):
    def spec(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node("Exp", ["x"], ["whole"]),
         helper.make_node("Flatten", ["whole"], ["flat"], axis=0)],
        "views", [spec("x", 64, 64)], [spec("whole", 64, 64), spec("flat", 1, 4096)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]),
              tmp_path / "views.onnx")
    session = Session(compile(tmp_path / "views.onnx"))
    for _ in range(2):
        found = session.run(x=np.zeros((64, 64), np.float32))
        found["whole"] *= 2
        found["flat"] *= 3
        assert (found["whole"] == 2).all()
        assert (found["flat"] == 3).all()


def test_outputs_can_be_chosen(session):
    assert list(session.run(**inputs(), outputs=["same"])) == ["same"]


def test_results_are_written_to_given_arrays(session):
    given = inputs(1, 3)
    mine = {"hidden": np.zeros((1, 3, 16), np.float32)}
    found = session.run(given, outputs=mine)
    assert found.keys() == {"hidden"}
    assert found["hidden"] is mine["hidden"]
    assert_right(mine["hidden"], given)


def test_torch_tensors_are_taken(session):
    torch = pytest.importorskip("torch")
    given = inputs()
    assert_right(
        session.run({name: torch.from_numpy(array) for name, array in given.items()})["hidden"],
        given,
    )
    message = refusal(session, x=torch.zeros(1, 3, 8, requires_grad=True), shift=given["shift"])
    assert message.startswith("x cannot be read as an array on the CPU")


def test_threads_of_one_process_share_a_session(session):
    given = [inputs(8, 500 + i) for i in range(4)]
    right = []

    def work(each):
        for _ in range(30):
            assert_right(session.run(**each)["hidden"], each)
        right.append(each)

    threads = [threading.Thread(target=work, args=(each,)) for each in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == len(given)


def test_one_library_serves_several_sessions(saved):
    first, second = Session(saved), Session(saved)
    assert first._runner._library is second._runner._library
    del first
    gc.collect()
    assert_right(second.run(**inputs())["hidden"], inputs())


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return Session(save_kinds(tmp_path_factory.mktemp("kinds")))


def test_a_bundle_that_takes_the_place_of_one_in_use_is_the_one_that_runs(saved, tmp_path):
    kinds = Bundle.load(save_kinds(tmp_path))
    place = tmp_path / "model.pf"
    Bundle.load(saved).save(place)
    with Session(place):
        kinds.save(place)
        found = Session(place).run(**of_kinds())
    np.testing.assert_array_equal(found["bw"], [1.5, -2])


def test_every_kind_of_number_goes_in_and_out(kinds):
    found = kinds.run(**of_kinds())
    np.testing.assert_array_equal(found["bw"], [1.5, -2])
    np.testing.assert_array_equal(found["b2"], [[0.5], [-4]])
    assert found["b2"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["h2"], [0, 2, 4])
    assert found["i2"] == 14
    np.testing.assert_array_equal(found["m2"], np.arange(7) % 2 == 1)


def test_an_axis_that_is_a_formula_is_checked(kinds):
    assert refusal(kinds, of_kinds(3, 8)) == "m has shape (8,); the axis 2*n + 1 is 8, not 7"


# What does not fit

X, SHIFT = np.zeros((1, 3, 8), np.float32), np.zeros((1, 3), np.float32)
TAKES = "x: float32[batch, seq, 8]; shift: float32[batch, seq]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X}, f"the input 'shift' is missing; the model takes {TAKES}"),
        ({}, f"the input 'x', 'shift' is missing; the model takes {TAKES}"),
        (
            {"x": X, "shfit": SHIFT},
            f"the model has no input 'shfit', did you mean 'shift'; it takes {TAKES}",
        ),
        ({"x": X, "shift": SHIFT, "n": X}, f"the model has no input 'n'; it takes {TAKES}"),
        (
            {"x": X.astype(np.float64), "shift": SHIFT},
            "x has dtype float64, the model takes float32; convert it with x.astype('float32')",
        ),
        (
            {"x": X.astype(">f4"), "shift": SHIFT},
            "x has dtype >f4, the model takes float32; convert it with x.astype('float32')",
        ),
        (
            {"x": X[0], "shift": SHIFT},
            "x has shape (3, 8); the model takes x: float32[batch, seq, 8]",
        ),
        (
            {"x": X[:, :, :7], "shift": SHIFT},
            "x has shape (1, 3, 7); the model takes x: float32[batch, seq, 8]",
        ),
        (
            {"x": X, "shift": SHIFT[:, :2]},
            "shift has shape (1, 2), where seq is 2, but seq is 3 in x",
        ),
        (
            {"x": X[:, :0], "shift": SHIFT[:, :0]},
            "x has shape (1, 0, 8); seq is 0 and must lie in 1..4096",
        ),
        (
            {"x": np.zeros((1, 5000, 8), np.float32), "shift": np.zeros((1, 5000), np.float32)},
            "x has shape (1, 5000, 8); seq is 5000 and must lie in 1..4096",
        ),
        (
            {"x": X[:0], "shift": SHIFT[:0]},
            "x has shape (0, 3, 8); batch is 0 and must be at least 1",
        ),
        (
            {"x": [[1.0]], "shift": SHIFT},
            "x is a list; pass a numpy array or a tensor of a library that has DLPack, "
            "such as PyTorch",
        ),
    ],
)
def test_an_input_that_does_not_fit_is_refused(given, message, session):
    assert refusal(session, **given) == message
    assert_right(session.run(**inputs())["hidden"], inputs())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["hiden"], "the model has no output 'hiden', did you mean 'hidden'; "
                    "it has 'hidden', 'same'"),
        ("hidden", "outputs is 'hidden', not a list of names or a dict of arrays"),
        (
            {"hidden": np.zeros((1, 3, 8), np.float32)},
            "the array for the output hidden is float32[1, 3, 8]; "
            "this run gives float32[1, 3, 16]",
        ),
        (
            {"same": np.zeros((1, 3, 8))},
            "the array for the output same is float64[1, 3, 8]; this run gives float32[1, 3, 8]",
        ),
        (
            {"same": np.broadcast_to(np.float32(0), (1, 3, 8))},
            "the array for the output same is read-only",
        ),
        ({"same": None}, "the output same is to be written to a NoneType, not to a numpy array"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(outputs, message, session):
    assert refusal(session, **inputs(), outputs=outputs) == message


def test_no_result_is_written_when_one_does_not_fit(session):
    mine = {"same": np.zeros((1, 3, 8), np.float32), "hidden": np.zeros(3)}
    refusal(session, **inputs(), outputs=mine)
    assert not mine["same"].any()


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_must_be_a_count(threads, bundle):
    with pytest.raises(BadInput, match="threads is"):
        Session(bundle, threads=threads)


def test_a_library_without_the_entry_is_refused(bundle):
    entries = (Entry("decode", {}, ("w", "c")),)
    with pytest.raises(BadBundle, match="has no function 'decode'") as error:
        Session(replace(bundle, manifest=replace(bundle.manifest, entries=entries)))
    one_sentence(error)


def test_what_is_no_library_is_refused():
    with pytest.raises(BadBundle, match="TVM cannot load") as error:
        Session(Bundle.create(b"no library", tiny_weights(), tiny_manifest()))
    one_sentence(error)


# Threads

@pytest.fixture(scope="module")
def parallel(tmp_path_factory) -> Path:
    return save_parallel(Parallel, tmp_path_factory.mktemp("parallel"))


def run_python(code: str, *args: object, **environment: str) -> str:
    """What `code` prints in a process of its own, which inherits only what it needs."""
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**keep, **environment}, capture_output=True, text=True, check=False, timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


DOUBLE = """
import os, signal, sys, threading, time
import numpy as np
from pocketformer.compiler.session import Session

x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)

def check(session):
    np.testing.assert_array_equal(session.run(x=x)["y"], 2 * x)

def threads(most=1):
    end = time.monotonic() + 30     # one that was joined may be listed for a moment
    while (count := len(os.listdir("/proc/self/task")) - before) > most:
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return count

before = len(os.listdir("/proc/self/task"))
"""
COUNT_THREADS = DOUBLE + """
check(Session(sys.argv[1], threads=1))
print(threads(), end=" ")
two, many = Session(sys.argv[1], threads=2), Session(sys.argv[1], threads=10_000)
print(threads(), end=" ")
check(two)
print(threads(), end=" ")
for _ in range(3):
    check(two)
    check(Session(sys.argv[1], threads=2))
print(two.threads, many.threads, threads())
"""
SLEEP = DOUBLE + """
def seconds_after_a_run():
    check(session)
    start = time.process_time()
    time.sleep(0.1)
    return time.process_time() - start

session = Session(sys.argv[1], threads=2)
print(min(seconds_after_a_run() for _ in range(5)))    # numpy has threads, too
"""
AT_ONCE = DOUBLE + """
def many_runs(session):
    for _ in range(300):
        check(session)
    done.append(session)

done = []
sessions = [Session(sys.argv[1], threads=2) for _ in range(3)]
callers = [threading.Thread(target=many_runs, args=[each]) for each in sessions]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print(len(done), threads(3) <= 3)
"""
FORK = DOUBLE + """
session = Session(sys.argv[1], threads=2)
check(session)
child = os.fork()
if child == 0:
    signal.alarm(60)    # a child that hangs would keep our output open
    check(session)
    check(Session(sys.argv[1], threads=2))
    print(len(os.listdir("/proc/self/task")), end=" ", flush=True)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
check(session)
"""
UNLOAD = DOUBLE + """
import gc
def mapped():
    return any("parallel.pf/model.so" in line for line in open("/proc/self/maps"))

session = Session(sys.argv[1], threads=2)
check(session)
print(mapped(), threads(), end=" ")
del session
gc.collect()
print(mapped(), threads(0))
"""
HOT = """
import sys
import numpy as np
from pocketformer.compiler.session import Session

session = Session(sys.argv[1], threads=2)
x = np.zeros((64, 64), np.float32)
for row in (0, 31, 63, 0):
    x[:] = 0
    x[row, 5] = 1
    try:
        session.run(x=x)
    except Exception as error:
        print(str(error).strip().splitlines()[0])
x[:] = 0
print(session.run(x=x)["y"].any())
"""


@two_cpus
def test_threads_are_started_for_the_first_loop_and_kept(parallel):
    assert run_python(COUNT_THREADS, parallel) == f"0 0 1 2 {len(cpus())} 1"


@two_cpus
def test_nothing_is_busy_after_a_run(parallel):
    assert float(run_python(SLEEP, parallel)) < 0.005    # seconds of 0.1; TVM's threads: 0.05


@two_cpus
def test_runs_at_once_share_no_threads(parallel):
    assert run_python(AT_ONCE, parallel) == "3 True"


@two_cpus
def test_a_child_of_fork_has_threads_of_its_own(parallel):
    assert run_python(FORK, parallel) == "2 7"


@two_cpus
def test_threads_end_with_the_library(parallel):
    assert run_python(UNLOAD, parallel) == "True 1 False 0"


@two_cpus
def test_a_failure_in_another_thread_reaches_the_caller(tmp_path):
    said = run_python(HOT, save_parallel(Checked, tmp_path)).splitlines()
    assert len(said) == 5
    assert all("it is too hot" in each for each in said[:4])
    assert said[4] == "False"


def test_a_library_of_other_making_is_refused(tmp_path):
    executable = relax.build(Parallel, tvm.target.Target({"kind": "llvm"}))
    executable.export_library(str(tmp_path / "stock.so"))
    manifest = replace(tiny_manifest(), entries=(Entry("main", {}, ()),))
    with pytest.raises(BadBundle, match="without pocketformer's threads; compile") as error:
        Session(Bundle.create(tmp_path / "stock.so", {}, manifest))
    one_sentence(error)


def test_threads_follow_the_target_or_the_environment(parallel):
    code = "import sys; from pocketformer import Session; print(Session(sys.argv[1]).threads)"
    assert run_python(code, parallel) == "1"                # the tiny manifest's target has one
    assert run_python(code, parallel, TVM_NUM_THREADS="999") == str(len(cpus()))


# A process that only runs a bundle

LIGHT = """
import sys
import numpy as np
from pocketformer import Session

def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

x = np.zeros((1, 3, 8), np.float32)
before = anonymous()
Session(sys.argv[1]).run(x=x, shift=x[:, :, 0])
assert not {"tvm", "torch", "onnx"} & sys.modules.keys(), sys.modules.keys()
print(anonymous() - before)
"""


def test_a_run_imports_no_compiler_and_copies_no_weights(tiny_library, tmp_path):
    weights = {**tiny_weights(), "large": np.ones((16, 1 << 20), np.float32)}
    Bundle.create(tiny_library, weights, tiny_manifest()).save(tmp_path / "large.pf")
    assert int(run_python(LIGHT, tmp_path / "large.pf")) < 16 << 10    # KiB, for weights of 64 MiB


COMPILE_AFTERWARDS = """
import sys
import numpy as np
from pocketformer import Session

x = np.ones((1, 3, 8), np.float32)
session = Session(sys.argv[1])
first = session.run(x=x, shift=x[:, :, 0])
from tests.compiler.tiny import build, Tiny
from pathlib import Path
import tvm, torch
build(Tiny, Path(sys.argv[2]))
session._runner._tvm.from_dlpack(torch.ones(3))
again = Session(sys.argv[1]).run(x=x, shift=x[:, :, 0])
np.testing.assert_array_equal(first["hidden"], again["hidden"])
vm = tvm.relax.VirtualMachine(tvm.runtime.load_module(sys.argv[2]), tvm.cpu())
w, c = np.ones((8, 16), np.float32), np.ones(16, np.float32)
vm["main"](*map(tvm.runtime.tensor, [x, x[:, :, 0], w, c]))
"""


def test_a_process_that_ran_a_bundle_can_compile_afterwards(saved, tmp_path):
    pytest.importorskip("torch")
    run_python(COMPILE_AFTERWARDS, saved, tmp_path / "t.so")


@I.ir_module
class Wide:
    @R.function
    def main(x: R.Tensor(("seq", 4096), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            out = (R.add(x, R.add(R.add(x, x), x)),)
            R.output(out)
        return out


MANY_SIZES = """
import sys
import numpy as np
from pocketformer import Session

def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

session = Session(sys.argv[1])
session.run(x=np.ones((256, 4096), np.float32))
before = anonymous()
for seq in range(1, 257):
    assert (session.run(x=np.ones((seq, 4096), np.float32))["y"] == 4).all()
print(anonymous() - before)
"""


def test_memory_does_not_grow_with_every_new_size(tmp_path):
    manifest = replace(
        tiny_manifest(),
        inputs=(TensorSpec("x", ("seq", 4096), "float32"),),
        outputs=(TensorSpec("y", ("seq", 4096), "float32"),),
        dims={"seq": Dim()},
        entries=(Entry("main", {}, ()),),
    )
    library = build(Wide, tmp_path / "wide.so")
    Bundle.create(library, {}, manifest).save(tmp_path / "wide.pf")
    # 256 sizes of 2 MiB in the mean, twice each, would be a gigabyte.
    assert int(run_python(MANY_SIZES, tmp_path / "wide.pf")) < 150 << 10


# Without pocketformer

STOCK = """
import json, sys
import numpy as np
folder = sys.argv[1]
x, shift = np.ones((1, 4, 8), np.float32), np.zeros((1, 4), np.float32)

import tvm
from safetensors.numpy import load_file
from tvm import relax
entry = json.load(open(f"{folder}/manifest.json"))["entries"][1]
weights = load_file(f"{folder}/weights.safetensors")
vm = relax.VirtualMachine(tvm.runtime.load_module(f"{folder}/model.so"), tvm.cpu())
arrays = [x, shift, *(weights[name] for name in entry["weights"])]
hidden, same = vm[entry["function"]](*map(tvm.runtime.tensor, arrays))

assert "pocketformer" not in sys.modules
np.save(sys.argv[2], hidden.numpy())
"""


def test_a_stock_tvm_runs_the_library_with_the_weights(saved, tmp_path):
    run_python(STOCK, saved, tmp_path / "hidden.npy")
    given = {"x": np.ones((1, 4, 8), np.float32), "shift": np.zeros((1, 4), np.float32)}
    assert_right(np.load(tmp_path / "hidden.npy"), given, factor=2)
