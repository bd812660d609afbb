"""What there is to tune in a model is what its kernels are picked for."""

import pytest

import pocketformer as pf
from pocketformer import targets
from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.recipe import Float16, Float32
from pocketformer.compiler.tuning.tasks import Task, tasks_of
from pocketformer.targets import Target
from tests.compiler.tiny import one_sentence
from tests.encoder import encoder

HOST = targets.load("host")
PHONE = targets.load("arm64-android").variants[0]     # without instructions for float16


def tasks(target: Target = HOST, dims=None, sizes=None, recipe=None) -> list[Task]:
    return tasks_of(pf.load(encoder(), dims=dims), target, recipe or Float32(), sizes or {})


def test_tasks_are_the_kernels_of_a_bundle_with_their_calls():
    bundle = pf.compile(encoder(), "host", dims={"seq": 8}, records=())
    called = [record.workload for record in bundle.manifest.kernels if record.workload]
    found = tasks(dims={"seq": 8})
    assert {task.key: task.calls for task in found} == {
        workload: called.count(workload) for workload in called
    }


def test_buckets_and_all_other_sizes_have_tasks_of_their_own():
    keys = [task.key for task in tasks(dims={"seq": "8,16"})]
    assert len(set(keys)) == len(keys)
    assert {"linear_8x32x64_residual", "layernorm_anyx32_bias@rows=16"} <= set(keys)


def test_open_sizes_are_the_ones_asked_for():
    keys = [task.key for task in tasks(sizes={"seq": 77})]
    assert "linear_anyx96x32_bias@m=77" in keys
    assert "attention_1xanyxany_4x8_maskk_packed@kv_len=77" in keys
    with pytest.raises(BadDim) as error:
        tasks(sizes={"length": 77})
    assert "no dimension 'length'" in one_sentence(error)


def test_what_a_target_has_no_kernel_for_is_no_task():
    kinds = {task.key.partition("_")[0] for task in tasks(PHONE, {"seq": 8}, recipe=Float16())}
    assert "layernorm" in kinds
    assert "linear" not in kinds
