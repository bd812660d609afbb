"""Records to test with: of MiniLM's feed-forward layer on this machine, unless said otherwise."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pocketformer import targets
from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.record import DeviceNote, Record
from pocketformer.compiler.tuning.records import core_of
from pocketformer.schedules.workloads import (
    ACTIVATIONS,
    MOST,
    MOST_PRODUCTS,
    Attention,
    BatchMatmul,
    Function,
    Linear,
    Lookup,
    Norm,
    QuantizedLinear,
    QuantizedMatmul,
    Softmax,
    WeightOnlyLinear,
    Workload,
)

HOST = targets.load("host")
LAYER = Linear(128, 1536, 384, bias=True, activation="gelu")


def record(number: int = 1, **other: Any) -> Record:
    """A record of the point with this `number` in its workload's space, 1.2 times as fast."""
    workload = other.pop("workload", LAYER)
    facts: dict[str, Any] = {
        "point": points_of(workload, HOST)[number],
        "sizes": {},
        "target": "host",
        "core": core_of(HOST),
        "threads": HOST.threads,
        "source": "measured",
        "median_us": 100.0,
        "default_us": 120.0,
        "spread": 0.01,
        "runs": 32,
        "device": DeviceNote("host", core_of(HOST)),
        "tvm": version_of("apache-tvm"),
        "pocketformer": "0.2.0",
        "time": "2026-11-21T12:00:00+00:00",
    }
    return Record(workload=workload, **{**facts, **other})


SIZES = st.one_of(st.integers(1, 600), st.sampled_from([1, 2, 4096, 1 << 24, MOST]))
AXES = st.none() | SIZES
FLAGS = st.booleans()
BYTES = st.sampled_from(["int8", "uint8"])
NAMES = st.sampled_from(ACTIVATIONS)


@st.composite
def attentions(draw: Any) -> Attention:
    kv_heads, size = draw(st.integers(1, 40)), draw(SIZES)
    return Attention(
        draw(AXES), draw(AXES), draw(AXES), kv_heads * draw(st.integers(1, 8)), kv_heads, size,
        draw(st.sampled_from([size, 64])), draw(st.floats(-4, 4)),
        draw(st.none() | st.lists(FLAGS, min_size=3, max_size=4).map(tuple)),
        draw(st.sampled_from(["float32", "bool"])), draw(FLAGS), False,
        draw(st.sampled_from(["float32", "bfloat16", "int8"])),
    )


@st.composite
def small_weights(draw: Any) -> WeightOnlyLinear:
    group = draw(st.none() | st.integers(1, 64).map(lambda eights: 8 * eights))
    k = draw(st.integers(1, 99)) * (group or 1)
    return WeightOnlyLinear(
        draw(AXES), draw(SIZES), k, 4 if group else 8, group, draw(FLAGS), draw(FLAGS), draw(NAMES),
        draw(FLAGS),
    )


def workloads() -> st.SearchStrategy[Workload]:
    """Any workload, of any kind and size."""
    residuals = st.sampled_from([(False, False), (True, False), (True, True)])
    dtypes = st.sampled_from(["float32", "bfloat16", "float16"])
    return st.one_of(
        st.builds(
            Linear, AXES, SIZES, SIZES, FLAGS, NAMES, FLAGS, dtypes, st.just("float32"),
            st.sampled_from(["float32", "bfloat16", "int8"]),
        ),
        st.builds(
            QuantizedLinear, AXES, SIZES, SIZES.filter(lambda k: k <= MOST_PRODUCTS),
            st.sampled_from(["int8", "uint8", "float32"]),
            FLAGS, FLAGS, FLAGS, NAMES, FLAGS,
            st.sampled_from(["float32", "bfloat16", "int8", "uint8"]),
        ),
        small_weights(),
        attentions(),
        st.builds(
            lambda rows, size, kind, eps, sums, bias, stored: Norm(
                rows, size, kind, eps, *sums, bias, *stored),
            AXES, SIZES, st.sampled_from(["layer", "rms"]), st.floats(0, 1), residuals, FLAGS,
            st.sampled_from([("", True), ("int8", True), ("rows", False), ("bfloat16", True)]),
        ),
        st.builds(
            lambda rows, groups, count, bits, group, ids: Lookup(
                rows, 2 * groups * group, count, bits, 2 * group, ids),
            AXES, st.integers(1, 40), SIZES, st.sampled_from([4, 8]), st.integers(1, 64),
            st.sampled_from(["int64", "int32"]),
        ),
        st.builds(Softmax, AXES, AXES),
        st.builds(BatchMatmul, AXES, AXES, AXES, AXES, FLAGS),
        st.builds(QuantizedMatmul, AXES, AXES, AXES, st.none() | st.integers(1, 600), BYTES, BYTES),
        st.builds(
            Function, st.from_regex("[a-z_]+", fullmatch=True),
            st.from_regex("[0-9a-f]{64}", fullmatch=True),
        ),
    )
