"""Recipes on the command line: their options, and what is wrong with them."""

import json

import numpy as np
import onnx
import pytest

import pocketformer as pf
from pocketformer.compiler.arrays import write_arrays
from pocketformer.compiler.cli.recipes import recipe_from
from pocketformer.compiler.recipe import Int4Weights, Int8
from tests.compiler.test_cli import cli, sentence
from tests.encoder import encoder, inputs
from tests.numerics.check import reference


@pytest.fixture(scope="module")
def proto():
    return encoder()


@pytest.fixture(scope="module")
def files(proto, tmp_path_factory):
    """A folder with encoder.onnx and a folder of calibration batches."""
    folder = tmp_path_factory.mktemp("files")
    onnx.save(proto, folder / "encoder.onnx")
    (folder / "data").mkdir()
    for number in range(12):
        write_arrays(folder / "data" / f"{number}.npz", inputs(1, 5 + number))
    return folder


def test_compile_calibrates_on_a_folder(proto, files):
    output = files / "out.pf"
    done = cli("compile", files / "encoder.onnx", "-r", "int8", "--calibrate", files / "data",
               "--override", "wide*=float32", "--observer", "minmax", "--dim", "seq=9",
               "-o", output, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["recipe"] == "int8"
    given = inputs(1, 9)
    (found,) = pf.Session(output).run(given).values()
    (wanted,) = reference(proto, given)
    cosines = (found * wanted).sum(-1) / np.linalg.norm(found, axis=-1)
    assert (cosines / np.linalg.norm(wanted, axis=-1)).mean() > 0.99


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-r", "int8"], "the recipe int8 needs calibration data: Int8(calibration=batches), or "
         "--calibrate data.npz"),
        (["-r", "int8", "--calibrate", "nowhere.npz"], "there is no file or folder nowhere.npz"),
        (["-r", "int4", "--observer", "mse"], "--observer goes with int8 and int8-dynamic, not"),
        (["-r", "bfloat16", "--calibrate", "."], "--calibrate goes with int8 and int8-dynamic and"),
        (["-r", "int8-dynamic", "--smooth", "much"], "--smooth takes a number from 0 to 1, auto"),
        (["-r", "int8-dynamic", "--smooth", "2"], "smooth is 2.0, it must lie in [0, 1]"),
        (["-r", "int8-dynamic", "--observer", "luck"], "observer is 'luck'; one of minmax"),
        (["-r", "int4", "--group", "48"], "group is 48; one of 32, 64, 128"),
        (["-r", "int4", "--override", "wide"], "--override takes NAME=VALUE, not 'wide'"),
        (["-r", "int4", "--override", "w*=int8", "--override", "w*=float32"], "has 'w*' twice"),
        (["-r", "int4", "--override", "wide=int3"], "override 'wide': no recipe 'int3'"),
        (["-r", "int4", "--override", "wild*=float32"], "the override 'wild*' matches no layer"),
    ],
    ids=lambda each: " ".join(each[2:4]) if isinstance(each, list) else "",
)
def test_a_wrong_option_is_told_in_a_sentence_and_nothing_is_written(files, options, words):
    output = files / "refused.pf"
    line = sentence(cli("compile", files / "encoder.onnx", "-o", output, *options))
    assert words in line
    assert not output.exists()


def test_tune_takes_the_same_options(files):
    line = sentence(cli("tune", files / "encoder.onnx", "-r", "int4", "--override", "wild*=float32",
                        "--records", files / "records.jsonl"))
    assert "the override 'wild*' matches no layer" in line
    assert not (files / "records.jsonl").exists()


def test_texts_need_a_model_that_takes_texts(files):
    (files / "texts.txt").write_text("a film\n")
    line = sentence(cli("compile", files / "encoder.onnx", "-r", "int8", "--calibrate",
                        files / "texts.txt", "-o", files / "refused.pf"))
    assert "not the model's input ids: int64[1, seq]; give batches of arrays" in line
    assert not (files / "refused.pf").exists()


def test_options_become_those_of_the_recipe(files):
    data = files / "data"
    found = recipe_from("int8", data, ["a*=int4", "b=bfloat16"], "0.5", equalize=True, scales=None)
    assert isinstance(found, Int8)
    assert (found.calibration, found.smooth, found.equalize) == (data, 0.5, True)
    assert list(found.overrides.items()) == [("a*", "int4"), ("b", "bfloat16")]
    assert recipe_from("int4", None, None, None, group=64) == Int4Weights(group=64)
    assert recipe_from("int8-dynamic", None, None, "none").smooth is None
