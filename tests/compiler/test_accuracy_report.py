"""An accuracy report on the terminal, as JSON, in a manifest and as a page."""

import json
from dataclasses import asdict, replace
from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from pocketformer.compiler.decode import decode
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.quantization.page import page
from pocketformer.compiler.quantization.result import AccuracyReport, Choice, LayerReport
from pocketformer.compiler.quantization.table import accuracy_tables, plain_text
from tests.compiler.tiny import one_sentence


def report(**fields: object) -> AccuracyReport:
    layers = tuple(
        LayerReport(f"layer.{i}/query", "linear", "int8", 20.0 + i, False) for i in range(20)
    )
    basis = AccuracyReport(
        model="tiny", recipe="int8", metric="cosine", max_drop=0.01, baseline=1.0, batches=3,
        device="a machine", threads=2, float32_bytes=4_000_000, float32_ms=8.0,
        layers=(replace(layers[0], precision="bfloat16", kept=True), *layers[1:]),
        choices=(
            Choice((), "bfloat16", 0.97, 0.03, 1_000_000, 2.5),
            Choice((0, 1), "bfloat16", None, None, 1_200_000, 3.0),
            Choice((0,), "bfloat16", 0.9912, 0.0088, 1_100_000, 2.75),
        ),
        chosen=2,
    )
    return replace(basis, **fields)


def printed(of: AccuracyReport) -> str:
    file = StringIO()
    Console(file=file, width=160).print(accuracy_tables(of))
    return file.getvalue()


def test_the_table_tells_metric_size_time_and_kept_layers():
    text = printed(report())
    for words in ("0.99120, float32 1.00000", "1.1 MB, 0.275 of float32's 4 MB",
                  "0.344 of float32's", "1 of 20 layers, in bfloat16", "at most 0.01",
                  "on a machine, 2 threads", "not finite"):
        assert words in text
    chosen = next(line for line in text.splitlines() if line.endswith("chosen"))
    assert "0.0088" in chosen


def test_the_most_sensitive_layers_come_first_and_kept_ones_are_always_shown():
    last = replace(report().layers[0], sqnr=90.0)
    text = printed(report(layers=(last, *report().layers[1:])))
    lines = [line for line in text.splitlines() if line.startswith("layer.")]
    assert lines[0].startswith("layer.1/")
    assert "90.0  kept" in lines[-1]
    assert "and 7 that suffer less" in text


def test_layers_are_in_the_order_of_what_they_take_from_the_answers():
    cost = [replace(layer, answers=60.5 - i) for i, layer in enumerate(report().layers)]
    text = printed(report(layers=tuple(cost)))
    lines = [line for line in text.splitlines() if line.startswith("layer.")]
    assert "answers dB" in text
    assert "answers dB" not in printed(report())
    assert lines[0].startswith("layer.19/")
    assert "39.0        41.5" in lines[0]
    assert "41.5" in page(report(layers=tuple(cost)))
    assert "answers dB" in page(report(layers=tuple(cost)))
    assert "answers dB" not in page(report())


def test_a_refusal_shows_what_was_measured_and_chooses_nothing():
    refused = report(chosen=None)
    text = plain_text(refused)
    assert [line.split()[0] for line in text.splitlines()] == ["kept", "all", "0", "1", "2"]
    assert "chosen" not in text
    assert "answers" not in printed(refused)


def test_decibels_have_no_baseline_and_are_named():
    text = printed(report(metric="sqnr", baseline=None))
    assert "0.99 dB, float32 exact" in text


def test_a_report_in_a_manifest_is_read_again():
    text = json.loads(json.dumps(asdict(report())))
    assert decode(AccuracyReport, text, "manifest.json.accuracy") == report()


@pytest.mark.parametrize("wrong", [{"chosen": 3}, {"chosen": -1}, {"choices": "a layer"}])
def test_places_that_are_not_there_are_refused(wrong):
    if wrong.get("choices"):
        wrong = {"choices": [asdict(Choice((20,), "float32", 1.0, 0.0, 1, 1.0))]}
    text = json.loads(json.dumps(asdict(report()))) | {"chosen": None} | wrong
    with pytest.raises(BadBundle) as error:
        decode(AccuracyReport, text, "manifest.json.accuracy")
    one_sentence(error)


class Page(HTMLParser):
    """The texts of a page, and how many rows its tables have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.texts, self.open = 0, [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.rows += tag == "tr"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_has_both_pictures_and_all_layers_and_escapes_names():
    text = page(report(metric="<lambda>", model="<b>"))
    found = Page(text)
    assert text.count("<svg") == 2
    assert found.rows == 1 + 3 + 1 + 20
    assert "<lambda>" in found.texts
    assert "<lambda>" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_page_of_a_refusal_can_be_drawn():
    assert page(report(chosen=None, max_drop=None)).count("<svg") == 2
