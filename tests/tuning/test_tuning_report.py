"""A tuning's report: text, JSON, a page."""

import io
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.report import tuning_report
from pocketformer.compiler.tuning.result import Compared, TaskStatus, Tuning

WIDE = TaskStatus(
    "linear_128x1536x384_gelu", "linear_128x1536x384_gelu", {}, 6, 0.5, 400, 28, 7, 1,
    200.0, 1.25, "f32_gemm_8x32k1_avx512", True,
)
LONG = replace(WIDE, key="linear_128x384x1536", share=0.25, gain=1.0, best="", failed=0)
UNTRIED = TaskStatus("softmax_12x128", "softmax_12x128", {}, 1, 0.05, 12)
FUNCTION = TaskStatus("pool_0123456789ab", "pool_0123456789ab", {}, 1, 0.04, 1)
TUNING = Tuning(
    model="mini<lm>", target="host", core="znver4", device="this machine", emulated=False,
    threads=2, path="r.jsonl", tasks=(WIDE, LONG, UNTRIED, FUNCTION), followed=(WIDE.workload,),
    compared=(Compared({"seq": 128}, (20.0, 22.0, 21.0), (18.0, 19.0, 16.0)),),
    curve=((0, 1.0), (7, 0.95), (14, 0.9)), trials=56, seconds=61.0, interrupted=False,
    notes=("3 lines of r.jsonl are no records & stay",), records=Records(),
)


@pytest.fixture(scope="module")
def text() -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(tuning_report(TUNING))
    return console.file.getvalue()


def row(text: str, task: TaskStatus) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(task.key + " "))
    return line.split()[1:]


def test_the_report_tells_each_kernels_gain(text):
    assert row(text, WIDE) == [
        "50.0%", "28", "(1", "failed)", "399", "200", "160", "1.250", WIDE.best
    ]
    assert row(text, LONG)[-4:] == ["1.000", "the", "untuned", "one"]
    assert row(text, UNTRIED) == ["5.0%", "0", "11"]
    assert row(text, FUNCTION) == ["4.0%", "0", "any"]


def test_the_report_tells_what_the_model_gains(text):
    assert (
        "16 ms tuned, 20 ms untuned: 1.250x as fast, 3 runs of each in turns "
        "(medians 18 ms and 21 ms)"
    ) in text
    assert "1 of 4 kernels, those that gain 2% or more" in text
    assert TUNING.gain == 20 / 16
    assert TUNING.kernel_gain == pytest.approx(1 / (0.5 / 1.25 + 0.5))
    assert TUNING.notes[0] in text


def test_only_kernels_that_the_tuned_model_follows_count():
    small = replace(LONG, workload=LONG.key, gain=1.01, best="f32_gemm_4x16k1_avx512")
    assert replace(TUNING, tasks=(WIDE, small)).kernel_gain == TUNING.kernel_gain


def test_a_gain_that_no_race_confirmed_is_marked():
    console = Console(file=io.StringIO(), width=160)
    console.print(tuning_report(replace(TUNING, tasks=(replace(WIDE, confirmed=False),))))
    assert f"{WIDE.best} (not confirmed)" in console.file.getvalue()


def test_a_search_that_was_broken_off_has_no_gain_of_the_model():
    broken_off = replace(TUNING, compared=(), interrupted=True)
    assert (broken_off.default_ms, broken_off.tuned_ms, broken_off.gain) == (None, None, None)
    assert json.loads(json.dumps(broken_off.to_dict()))["gain"] is None


def test_the_json_has_every_figure_of_the_report():
    told = json.loads(json.dumps(TUNING.to_dict()))
    assert told["tasks"][0]["gain"] == 1.25
    assert told["compared"] == [{
        "sizes": {"seq": 128}, "runs": 3, "default_ms": 20.0, "tuned_ms": 16.0,
        "default_median_ms": 21.0, "tuned_median_ms": 18.0,
    }]
    assert (told["default_ms"], told["tuned_ms"], told["gain"]) == (20.0, 16.0, 1.25)
    assert told["curve"] == [[0, 1.0], [7, 0.95], [14, 0.9]]


def test_the_page_has_pictures_and_all_kernels_and_loads_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    TUNING.save_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 2
    assert "mini&lt;lm&gt;" in text
    assert "records &amp; stay" in text
    found = Page(text)
    assert [cells[0] for cells in found.rows[1:]] == [task.key for task in TUNING.tasks]
    assert [cells[5] for cells in found.rows[1:]] == ["399", "399", "11", "any"]
    assert not [value for name, value in found.links if not value.startswith("#")]


class Page(HTMLParser):
    """A page's table and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[tuple[str, str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.rows[-1].append("")
        self.links += [(name, value) for name, value in attrs
                       if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data
