"""Where the time of a run goes: attributed, added up, beside limits, printed and drawn."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console
from typer.testing import CliRunner

import pocketformer as pf
from pocketformer import targets
from pocketformer.compiler.cli import app
from pocketformer.compiler.example_inputs import make_inputs
from pocketformer.compiler.profiling import Call, Limits, Profile, limits, measure, peaks
from pocketformer.compiler.profiling.attribution import kernels_of
from pocketformer.compiler.profiling.gaps import instrument_us, time_between
from pocketformer.compiler.profiling.limits import measure_limits, target_of
from pocketformer.compiler.profiling.table import (
    headline,
    of_limit,
    profile_tables,
    short_operators,
    speed,
)
from pocketformer.compiler.recipe import Int8
from tests.compiler.tiny import one_sentence
from tests.encoder import encoder, inputs


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Limits are compiled once, and not into the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("POCKETFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def bundle() -> pf.Bundle:
    return pf.compile(encoder(), "host", dims={"seq": "4,16"})


@pytest.fixture(scope="module")
def profile(bundle: pf.Bundle) -> Profile:
    return pf.profile(bundle, dims={"seq": 9}, runs=5, threads=1)


TRIES = 20      # to measure times and limits while nobody else uses the machine


# Attribution


def test_every_call_names_its_operators_and_costs(profile, bundle):
    assert len(profile.calls) == sum(each.entry == "main" for each in bundle.manifest.kernels)
    assert profile.unattributed_ms == 0
    for call in profile.calls:
        assert call.operators
        assert call.operations is not None
        assert call.bytes
        assert 0 < call.ms < 1000


def test_an_operator_is_found_at_the_kernel_that_computes_it(profile):
    (attention,) = (each for each in profile.kernels if each.kind == "attention")
    assert "weights_Softmax" in attention.operators
    assert "attention" in attention.kernel
    (gelu,) = (each for each in profile.kernels if "gelu" in each.workload)
    assert set(gelu.operator_kinds) == {"MatMul", "Add", "Div", "Erf", "Mul"}


@pytest.mark.parametrize(("seq", "entry"), [(4, "main_seq_4"), (16, "main_seq_16"), (5, "main")])
def test_the_entry_of_the_given_sizes_is_profiled(bundle, seq, entry):
    found = pf.profile(bundle, inputs(1, seq), runs=1, threads=1)
    assert (found.entry, dict(found.sizes)) == (entry, {"seq": seq})
    assert found.unattributed_ms == 0
    wide = next(call for call in found.calls if "gelu" in call.workload)
    assert wide.operations == 2 * seq * 32 * 64


def test_calls_follow_one_another_within_the_shown_run(profile):
    ends = [call.start_ms + call.shown_ms for call in profile.calls]
    starts = [call.start_ms for call in profile.calls]
    assert all(end <= start + 1e-9 for end, start in zip(ends, starts[1:], strict=False))
    assert starts[0] >= 0
    assert ends[-1] <= profile.shown_ms


def test_shares_add_up(profile):
    for groups in (profile.kernels, profile.kinds, profile.operator_kinds):
        assert sum(each.share for each in groups) == pytest.approx(1)
        assert sum(each.calls for each in groups) == len(profile.calls)
        assert groups == sorted(groups, key=lambda each: -each.ms)


def test_an_older_bundle_is_profiled_by_the_names_of_its_kernels(bundle):
    older = replace(bundle, manifest=replace(bundle.manifest, kernels=()))
    found = pf.profile(older, dims={"seq": 9}, runs=2, threads=1)
    assert "does not tell what its kernels compute" in " ".join(found.notes)
    (attention,) = (each for each in found.kernels if "attention" in each.kernel)
    assert "weights_Softmax" in attention.operators
    assert (attention.gflops, attention.of_limit) == (None, None)
    Console(file=open("/dev/null", "w")).print(profile_tables(found))    # noqa: SIM115


WIDE = """
<ir_version: 8, opset_import: ["": 17]>
wide (float[128, 256] x, float[256, 256] a, float[256, 256] b) => (float[128, 256] y) {
    p = MatMul(x, a)  q = Softmax<axis = -1>(p)  r = MatMul(q, b)  s = Tanh(r)
    t = MatMul(s, a)  u = Softmax<axis = -1>(t)  y = MatMul(u, b)
}
"""


def test_kernels_take_the_time_of_a_run_without_the_instrument():
    session = pf.Session(pf.compile(onnx.parser.parse_model(WIDE), "host"), threads=1)
    given = make_inputs(session.inputs, {})
    parts = []
    while len(parts) < TRIES and not any(abs(part - 1) < 0.08 for part in parts):
        # the fastest of each are undisturbed
        plain = min(session.time(given, runs=40))
        runs = [[end - start for _, start, end in kernels_of(run)]
                for run in session.profile(given, 40)]
        parts.append(sum(map(min, zip(*runs, strict=True))) / 1e6 / plain)
    assert min(abs(part - 1) for part in parts) < 0.08, parts


# Limits


@pytest.mark.parametrize("name", ["arm64-android", "armv7-android", "x86_64-linux", "galaxys24"])
def test_limits_can_be_compiled_for_every_platform(name, tmp_path):
    bundle = peaks.compile_peaks(targets.load(name))
    bundle.save(tmp_path / "peaks.pf")
    assert bundle.manifest.target.name == name


def test_the_kernels_of_the_limits_do_what_is_counted():
    target = targets.load("host")
    bundle = peaks.compile_peaks(target)
    counts = {"threads": 2, "rounds": 3, "kib": 2, "times": 5}
    given = {name: np.full(count, 1, np.uint8) for name, count in counts.items()}
    found = pf.Session(bundle, threads=1).run(given)
    # Of ones, `kib` times 256 numbers, `times` over, spread over the lanes of a vector.
    lanes = found["peak_read"].shape[1]
    np.testing.assert_array_equal(found["peak_read"], np.full((2, lanes), 5 * 2 * 256 / lanes))
    count = peaks.accumulators(target)
    sums = np.arange(count) / count
    for _ in range(3):
        sums = sums * 1.5 + 1.25
    np.testing.assert_allclose(
        found["peak_multiply_add"], np.full((2, lanes), sums.sum()), rtol=1e-5
    )
    counted = peaks.operations(target, 2, 3)
    assert counted.pop("float32") == 2 * 2 * 3 * count * lanes
    # Of ones, a step adds a sum to itself: once, or as often as an instruction goes over it.
    for dot in peaks.products_of(target):
        doubled = 2 + dot.matrix
        result = found[peaks.kernel_of(dot.dtype)]
        np.testing.assert_array_equal(result[:, : dot.lanes], sum(range(count)) * doubled**3)
        assert counted.pop(dot.dtype) == 2 * 2 * 3 * count * dot.products
    assert not counted


@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        ("x86_64-linux", {"int8": "avx2"}),
        ("galaxys24", {"bfloat16": "bfmmla", "float16": "fp16", "int8": "smmla"}),
        ("arm64-android", {}),      # arithmetic with its own vectors is the limit of float32
        ("armv7-android", {}),
    ],
)
def test_a_target_has_the_limits_of_its_own_instructions(name, instructions):
    target = targets.load(name)
    assert {dot.dtype: dot.name for dot in peaks.products_of(target)} == instructions
    assert peaks.operations(target, 1, 1).keys() == {"float32", *instructions}


def test_no_kernel_is_much_faster_than_the_limits(profile, bundle):
    assert profile.limits.how == "measured"
    assert profile.limits.gflops > 1
    assert all(each.of_limit > 0 for each in profile.kernels)
    found = [profile]

    def fastest():
        return min(max(each.of_limit for each in one.kernels) for one in found)

    def of_memory():
        return max(one.limits.cache_gbs / one.limits.memory_gbs for one in found)

    while len(found) < TRIES and (fastest() >= 1.5 or of_memory() <= 0.5):
        found.append(pf.profile(bundle, dims={"seq": 9}, runs=5, threads=1))
    assert fastest() < 1.5
    assert of_memory() > 0.5
    assert profile.limits.memory_gbs > 0.05


WIDE_LINEAR = """
<ir_version: 8, opset_import: ["": 17]>
wide (float[256, 768] x, float[768, 768] w) => (float[256, 768] y) { y = MatMul(x, w) }
"""


@pytest.mark.parametrize("recipe", ["float32", "bfloat16", "int8"])
def test_a_linear_is_held_to_the_limit_of_what_it_multiplies(recipe):
    rng = np.random.default_rng()
    model = onnx.parser.parse_model(WIDE_LINEAR)
    weight = rng.standard_normal((768, 768), np.float32)
    del model.graph.input[1]
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    batches = [{"x": rng.standard_normal((256, 768), np.float32)} for _ in range(2)]
    if recipe == "int8":
        recipe = Int8(calibration=batches)
    bundle = pf.compile(model, "host", recipe=recipe)
    limits, is_held = [], False
    while len(limits) < TRIES and not is_held:
        found = pf.profile(bundle, batches[0], runs=20, threads=1)
        (linear,) = (each for each in found.kernels if each.kind == "linear")
        (fastest,) = (call.least_ms for call in found.calls if call.function == linear.name)
        share = linear.of_limit * linear.ms / fastest
        limits.append((linear.limit, share))
        is_held = linear.limit == "compute" and 0.1 < share < 1.05
    assert linear.precision == getattr(recipe, "name", recipe)
    assert is_held, limits


def test_limits_are_compiled_once(bundle, monkeypatch):
    monkeypatch.setattr(peaks, "compile_peaks", None)    # would fail
    found = measure_limits(bundle.manifest.target, lambda peaks: pf.Session(peaks, threads=1))
    assert found.gflops > 1


def test_limits_that_cannot_be_measured_are_left_out(bundle, monkeypatch):
    def refuse(*_: object) -> None:
        raise pf.LinkFailed("there is no linker")

    monkeypatch.setattr(limits, "_peaks", refuse)
    found = pf.profile(bundle, runs=1, threads=1)
    assert found.limits is None
    assert found.notes[-1] == "the device's limits are unknown: there is no linker"
    assert all(each.gflops is not None and each.of_limit is None for each in found.kernels)


def test_limits_are_left_out_where_the_cache_cannot_be_written(bundle, monkeypatch):
    monkeypatch.setenv("POCKETFORMER_CACHE", "/proc/nowhere")
    found = pf.profile(bundle, runs=1, threads=1)
    assert found.limits is None
    assert "/proc/nowhere" in found.notes[-1]


def test_a_target_without_a_name_here_is_taken_from_the_bundle(bundle):
    record = replace(bundle.manifest.target, name="my own board")
    found = target_of(record)
    assert (found.mcpu, found.isa) == (record.mcpu, frozenset(record.isa))
    assert peaks.compile_peaks(found).manifest.target.mcpu == record.mcpu


def call(name: str, ms: float, operations: int | None, moved: int | None) -> Call:
    return Call(
        function=name, kernel=name, kind="other", workload="", operators=(name,),
        operator_kinds=("Add",), operations=operations, bytes=moved, ms=ms, least_ms=ms,
        start_ms=0.0, shown_ms=ms,
    )


def made(*calls: Call, **fields: object) -> Profile:
    basis = Profile(
        bundle="b", target="t", device="d", emulated=False, threads=1, sizes={}, entry="main",
        runs=1, latency_ms=10.0, fastest_ms=1.0, between_ms=0.0, overhead_ms=0.0,
        instrument_us=0.0, shown_ms=10.0, calls=calls,
        limits=Limits(gflops=100.0, memory_gbs=10.0, cache_gbs=50.0, cache_bytes=1000),
    )
    return replace(basis, **fields)


@pytest.mark.parametrize(
    ("operations", "moved", "limit", "part"),
    [
        (50_000_000, 1000, "compute", 0.5),         # 50 GFLOP/s of 100
        (0, 2_000_000, "memory", 0.2),              # 2 GB/s of 10
        (0, 1000, "cache", 1e-6 / 50 * 1000),       # small: from the cache
    ],
)
def test_a_kernel_is_held_to_the_limit_that_it_is_nearer_to(operations, moved, limit, part):
    (kernel,) = made(call("k", 1.0, operations, moved)).kernels
    assert kernel.limit == limit
    assert kernel.of_limit == pytest.approx(part)


def test_calls_are_held_to_the_limits_of_their_precisions():
    limits = Limits(
        gflops=100.0, memory_gbs=10.0, cache_gbs=50.0, cache_bytes=1000, short={"int8": 400.0})
    long = call("k", 1.0, 80_000_000, 1)
    short = replace(call("s", 1.0, 200_000_000, 1), precision="int8")
    half = replace(call("h", 1.0, 60_000_000, 1), precision="bfloat16")    # no instruction for it
    found = made(long, short, half, limits=limits)
    told = {each.name: (of_limit(each), speed(each)) for each in found.kernels}
    assert told == {
        "k": ("80% compute", "80 GFLOP/s"), "s": ("50% compute", "200 Gop/s"),
        "h": ("60% compute", "60 GFLOP/s"),
    }
    (kind,) = found.kinds
    assert kind.precision == "bfloat16, float32, int8"
    assert kind.of_limit == pytest.approx((0.8 + 0.5 + 0.6) / 3)
    (said,) = (text for name, text in headline(found) if name.startswith("limits"))
    assert said.startswith("compute 100 GFLOP/s float32, 400 int8; memory 10 GB/s")


def test_calls_of_unknown_cost_have_no_speed():
    (kernel,) = made(call("k", 1.0, None, None)).kernels
    assert (kernel.gflops, kernel.gbs, kernel.limit, kernel.of_limit) == (None, None, "", None)


# Terminal, JSON and HTML


def test_operators_are_shortened_to_their_place_and_kinds():
    names = tuple(f"/encoder/layer.{i}/query/{kind}" for i in (0, 1, 10) for kind in ("Mul", "Add"))
    long = replace(call("k", 1.0, 1, 1), operators=names, operator_kinds=("Mul", "Add"))
    (kernel,) = made(long).kernels
    assert short_operators(kernel) == "encoder/layer.#/query: Mul, Add"
    several = replace(call("k", 1.0, 1, 1), operators=("a", "b", "c", "d"))
    assert short_operators(made(several).kernels[0]) == "a, b, c, +1"


def command(*arguments: object):
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "model.pf"
    bundle.save(path)
    return path


def test_the_command_prints_kernels_kinds_and_limits(saved):
    done = command(saved, "--runs", 2, "--threads", 1, "--dim", "seq=9")
    assert done.exit_code == 0, done.stderr
    words = ("attention_1xanyxany", "query_Transpose", "limits, measured", "GFLOP/s", "Softmax")
    for word in words:
        assert word in done.stdout


TEXT, COUNT, TIME, LIST = str, int, (int, float), list
GROUP = {"name": TEXT, "calls": COUNT, "ms": TIME, "share": TIME, "gflops": TIME, "gbs": TIME,
         "limit": TEXT, "of_limit": TIME, "precision": TEXT}
SCHEMA = {
    "bundle": TEXT, "target": TEXT, "device": {"name": TEXT, "emulated": bool}, "threads": COUNT,
    "sizes": dict, "entry": TEXT, "runs": COUNT, "latency_ms": TIME, "kernels_ms": TIME,
    "between_ms": TIME, "fastest_ms": TIME, "unattributed_ms": TIME, "accounted": TIME,
    "instrument": {"ms_a_run": TIME, "us_a_kernel": TIME, "machine_calls": COUNT},
    "limits": {"gflops": TIME, "memory_gbs": TIME, "cache_gbs": TIME, "cache_bytes": COUNT,
               "how": TEXT, "short": dict},
    "notes": LIST,
    "kernels": [{**GROUP, "kernel": TEXT, "kind": TEXT, "workload": TEXT, "operators": LIST,
                 "operator_kinds": LIST}],
    "kinds": [GROUP], "operator_kinds": [GROUP],
    "calls": [{"function": TEXT, "kernel": TEXT, "kind": TEXT, "workload": TEXT, "operators": LIST,
               "operator_kinds": LIST, "operations": COUNT, "bytes": COUNT, "ms": TIME,
               "least_ms": TIME, "start_ms": TIME, "shown_ms": TIME, "precision": TEXT}],
}


def check_schema(value, schema, where="profile"):
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert value.keys() == schema.keys(), where
        for name, inner in schema.items():
            check_schema(value[name], inner, f"{where}.{name}")
    elif isinstance(schema, list):
        assert value, where
        for i, item in enumerate(value):
            check_schema(item, schema[0], f"{where}[{i}]")
    else:
        assert isinstance(value, schema), where


def test_json_has_every_promised_field(saved):
    done = command(saved, "--runs", 1, "--threads", 1, "--json")
    assert done.exit_code == 0, done.stderr
    check_schema(json.loads(done.stdout), SCHEMA)


class Page(HTMLParser):
    """The tags of a page, which must all be closed, its texts and its attributes."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_whole_and_loads_nothing(saved, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "profile.html"
    done = command(saved, "--runs", 1, "--threads", 1, "--html", path)
    assert done.exit_code == 0, done.stderr
    text = path.read_text()
    page = Page(text)
    assert [page.tags.count(tag) for tag in ("svg", "table", "script")] == [2, 2, 1]
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    links = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith("#") for value in links)
    ids = [value for name, value in page.attributes if name == "id"]
    calls = [value for value in ids if value.startswith("call-")]
    assert len(calls) == len(set(calls)) == 9
    assert "weights_Softmax" in " ".join(page.texts)
    assert len(text) < 300_000


def test_names_on_the_page_are_escaped():
    pytest.importorskip("matplotlib")
    from pocketformer.compiler.profiling.page import page

    evil = "<script>alert('1')</script>&amp;$x_2$\"'"
    bad = replace(
        call(evil, 1.0, 1, 1), kind=evil, workload=evil, operators=(evil,), operator_kinds=(evil,)
    )
    found = Page(page(made(bad, bundle=evil, target=evil, device=evil, notes=(evil,))))
    assert found.tags.count("script") == 1
    assert sum(evil in text for text in found.texts) >= 8
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_names_on_the_terminal_are_no_markup(capsys):
    odd = replace(call("[red]k[/red]", 1.0, 1, 1), operators=("[bold]a",), operator_kinds=("[/x]",))
    Console(width=200).print(profile_tables(made(odd, notes=("[/nothing]",), device="[/d]")))
    said = capsys.readouterr().out
    for text in ("[red]k[/red]", "[bold]a", "[/x]", "[/nothing]", "[/d]"):
        assert text in said


NOTES = {
    "no phone's speed": (1.0, {"emulated": True}, "nothing about the speed of a phone"),
    "the machine was not quiet": (0.5, {}, "not quiet: kernels and the time between"),
    "the instrument shows": (1.11, {}, "so short that the instrument slows them down"),
}


@pytest.mark.parametrize(("part", "fields", "words"), NOTES.values(), ids=NOTES)
def test_a_reader_is_told_what_to_make_of_the_figures(bundle, part, fields, words):
    short = made(call("k", 0.01, 1, 1), latency_ms=0.01 / part, **fields)
    (note,) = measure.notes_on(short, bundle.manifest)
    assert words in note


def test_long_kernels_that_add_up_to_too_much_were_disturbed(bundle):
    (note,) = measure.notes_on(made(call("k", 1.0, 1, 1), latency_ms=0.5), bundle.manifest)
    assert "not quiet" in note


# A run of two kernels; the machine's own calls take nothing and the instrument 2 us for each call.
RUN = (("vm.a", 0, 500), ("k1", 2000, 12000), ("vm.a", 14000, 14500), ("k2", 16000, 26000))


def test_the_instrument_s_time_is_not_between_the_kernels():
    assert instrument_us([RUN]) == 0.5
    between, overhead = time_between([RUN] * 3, fastest_ms=1.0)    # of a busy machine
    assert (between, overhead) == pytest.approx((0.0, 0.006))
    longer = [*RUN[:2], *((name, start + 5000, end + 5000) for name, start, end in RUN[2:])]
    assert time_between([longer], fastest_ms=1.0) == pytest.approx((0.003, 0.008))
    assert time_between([longer], fastest_ms=0.002) == pytest.approx((0.002, 0.009))


def test_a_quiet_run_needs_no_note(bundle):
    assert list(measure.notes_on(made(call("k", 1.0, 1, 1), latency_ms=1.0), bundle.manifest)) == []


# Mistakes


def refused(*arguments: object) -> str:
    done = command(*arguments)
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_mistakes_on_the_command_line_are_one_sentence(saved, tmp_path):
    assert "does not exist" in refused(tmp_path / "none.pf")
    assert "no dimension 'sq'" in refused(saved, "--dim", "sq=3")
    assert "may be 4,16" in refused(saved, "--dim", "seq=300")
    assert "no folder" in refused(saved, "--html", tmp_path / "none" / "page.html")
    assert "is a folder" in refused(saved, "--html", tmp_path)


def test_too_few_runs_and_missing_inputs_are_refused(bundle):
    with pytest.raises(pf.BadInput, match="whole number") as error:
        pf.profile(bundle, runs=0)
    one_sentence(error)
    with pytest.raises(pf.BadInput, match="input 'keep' is missing") as error:
        pf.profile(bundle, {"ids": inputs(1, 4)["ids"]}, runs=1)
    one_sentence(error)


def test_without_matplotlib_the_page_is_refused_before_the_work(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pocketformer[report]" in refused(saved, "--html", tmp_path / "page.html")
