"""Batches to calibrate on: every form that people have them in, and what is wrong with them."""

import io
import zipfile

import numpy as np
import pytest
from tvm.ir import IRModule

import pocketformer as pf
from pocketformer.compiler.arrays import write_arrays
from pocketformer.compiler.quantization.data import batches_of
from tests.compiler.tiny import one_sentence

RNG = np.random.default_rng()


def model(batch="batch", seq="seq", names=("input_ids", "attention_mask"), folder=None):
    dims = {axis: pf.Dim(1, 12) for axis in (batch, seq) if isinstance(axis, str)}
    specs = tuple(pf.TensorSpec(name, (batch, seq), "int64") for name in names)
    return pf.Model("text", IRModule(), {}, specs, (), dims, folder=folder)


def batch(rows=1, length=5):
    return {
        "input_ids": RNG.integers(0, 50, (rows, length)),
        "attention_mask": np.ones((rows, length), "int64"),
    }


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == ["input_ids", "attention_mask"]
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])


def test_batches_come_from_memory_a_file_or_a_folder(tmp_path):
    wanted = [batch(length=n) for n in (3, 5)]
    same(batches_of(iter(wanted), model()), wanted)
    same(batches_of(wanted[0], model()), wanted[:1])
    for number, each in enumerate(wanted):
        write_arrays(tmp_path / f"{number}.npz", each)
    same(batches_of(tmp_path, model()), wanted)
    same(batches_of(str(tmp_path / "1.npz"), model()), wanted[1:])


def test_a_list_of_paths_is_read_and_no_text(folder):
    wanted = [batch(length=n) for n in (3, 5)]
    paths = [folder / f"{number}.npz" for number in range(2)]
    for path, each in zip(paths, wanted, strict=True):
        write_arrays(path, each)
    same(batches_of(paths, model(folder=folder)), wanted)
    same(batches_of([str(path) for path in paths], model(folder=folder)), wanted)
    (folder / "some.txt").write_text("a film\n")
    for given, words in (
        ("some.txt", "some.txt; only .npz files come as a list"), ("no.npz", "there is no file")
    ):
        with pytest.raises(pf.BadInput) as error:
            list(batches_of([str(folder / given)], model(folder=folder)))
        assert words in one_sentence(error)


def test_tensors_of_other_libraries_are_taken():
    torch = pytest.importorskip("torch")
    given = batch()
    same(batches_of([{name: torch.tensor(array) for name, array in given.items()}], model()),
         [given])


@pytest.mark.parametrize(("size", "pieces"), [(1, 20), (5, 4), ("batch", 3), ("rows", 1)])
def test_more_rows_than_the_model_takes_come_in_several_batches(size, pieces):
    given = batch(rows=20)
    taken = model(size)
    taken.dims.update({"rows": pf.Dim()} if size == "rows" else {})
    found = list(batches_of(given, taken))
    assert len(found) == pieces
    same([{name: np.concatenate([each[name] for each in found]) for name in given}], [given])


def test_many_rows_of_an_axis_that_may_be_no_batch_are_warned_of(caplog):
    taken = model("rows")
    taken.dims["rows"] = pf.Dim()
    (found,) = batches_of(batch(rows=3000), taken)
    assert len(found["input_ids"]) == 3000
    assert "a batch has 3000 rows, and rows is not known to be a batch axis" in caplog.text


def test_a_file_of_a_folder_that_does_not_fit_is_named(tmp_path):
    for number, length in enumerate((5, 13)):
        write_arrays(tmp_path / f"{number}.npz", batch(length=length))
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(tmp_path, model()))
    assert f"batch 2 of the data ({tmp_path / '1.npz'}): " in one_sentence(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "the data has no batch"),
        ([{"input_ids": np.ones((1, 3), "int64")}], "the input 'attention_mask' is missing"),
        ([{**batch(), "labels": np.ones(1)}], "no input 'labels'"),
        ([batch(), {**batch(), "input_ids": np.ones((1, 5), "int32")}],
         "batch 2 of the data: input_ids has dtype int32, the model takes int64"),
        ([batch(length=13)], "seq is 13 and must lie in 1..12"),
        ([(batch(), 1)], "batch 1 of the data is of type tuple"),
        (np.ones((1, 5)), "data is of type ndarray; batches are dicts"),
        ("nowhere.npz", "there is no file or folder nowhere.npz"),
        (["a text"], "this model comes from none"),
    ],
    ids=["empty", "missing", "unknown", "dtype", "length", "tuple", "array", "path", "texts"],
)
def test_what_does_not_fit_is_told_in_a_sentence(data, words):
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(data, model()))
    assert words in one_sentence(error)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nan_is_told_with_its_batch_but_a_mask_may_be_infinite(dtype):
    taken = pf.Model("x", IRModule(), {}, (pf.TensorSpec("x", ("batch", 4), dtype),), (),
                     {"batch": pf.Dim(1, None)})
    data = [{"x": np.ones((2, 4), dtype)} for _ in range(3)]
    data[0]["x"][1, 2] = -np.inf
    assert len(list(batches_of(data, taken))) == 3
    data[1]["x"][1, 2] = np.nan
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(data, taken))
    assert one_sentence(error) == "batch 2 of the data: x has NaN"


def test_files_that_hold_no_arrays_are_refused(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4 not an archive")
    (tmp_path / "data.csv").write_text("1,2")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, words in (
        ("bad.npz", "no .npz file of numbers"),
        ("data.csv", "neither an .npz file"),
        ("empty", "holds no .npz file"),
    ):
        with pytest.raises(pf.BadInput) as error:
            list(batches_of(tmp_path / path, model()))
        assert words in one_sentence(error)


def marked(path, offset, flags):
    """The archive at `path`, with `flags` in both headers of its first file."""
    data = bytearray(path.read_bytes())
    for place in (6, data.index(b"PK\1\2") + 8):
        data[place + offset] = flags
    path.write_bytes(data)


@pytest.mark.parametrize("fault", ["encrypted", "packing", "huge"])
def test_archives_that_python_cannot_read_are_refused(tmp_path, fault):
    path = tmp_path / "bad.npz"
    write_arrays(path, batch())
    if fault == "encrypted":
        marked(path, 0, 1)
    elif fault == "packing":
        marked(path, 2, 97)
    else:
        header = io.BytesIO()
        shape = {"descr": "<i8", "fortran_order": False, "shape": (10**13,)}
        np.lib.format.write_array_header_1_0(header, shape)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("input_ids.npy", header.getvalue())
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(path, model()))
    assert "no .npz file of numbers" in one_sentence(error)


@pytest.fixture
def folder(tmp_path):
    """A folder with a tokenizer of a few words."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "a", "fine", "film", "and", "long"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_texts_keep_their_lengths_where_the_model_allows(folder):
    texts = ["a fine film", "long and long and long", "film " * 30]
    found = list(batches_of(texts, model(folder=folder)))
    assert [each["input_ids"].tolist() for each in found] == [
        [[2, 3, 4]], [[6, 5, 6, 5, 6]], [[4] * 12]
    ]
    assert all(each["attention_mask"].all() for each in found)
    (folder / "texts.txt").write_text("\n".join(texts) + "\n\n")
    same(batches_of(folder / "texts.txt", model(folder=folder)), found)


def test_endings_may_be_in_capitals_and_texts_may_begin_with_a_mark(folder):
    write_arrays(folder / "A.NPZ", wanted := batch())
    same(batches_of(folder / "A.NPZ", model()), [wanted])
    same(batches_of(folder, model()), [wanted])
    (folder / "A.TXT").write_text("fine film\n", encoding="utf-8-sig")
    (found,) = batches_of(folder / "A.TXT", model(folder=folder))
    assert found["input_ids"].tolist() == [[3, 4]]


def test_texts_for_fixed_sizes_are_padded_and_masked(folder):
    (found,) = batches_of(["a film", "fine film and"], model(2, 4, folder=folder))
    assert found["input_ids"].tolist() == [[2, 4, 0, 0], [3, 4, 5, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


def test_texts_that_fill_no_batch_are_told(folder, caplog):
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(["a film", "a"], model(4, 4, folder=folder)))
    assert "2 texts are fewer than the 4 of a batch" in one_sentence(error)
    assert len(list(batches_of(["a"] * 10, model(4, 4, folder=folder)))) == 2
    assert "the last 2 of 10 texts are left out: a batch has 4" in caplog.text


def test_texts_are_refused_where_the_model_takes_more_than_text(folder):
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(["a"], model(names=("input_ids", "pixels"), folder=folder)))
    assert "not the model's input pixels" in one_sentence(error)
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(["a", 3], model(folder=folder)))
    assert "texts and also something of type int" in one_sentence(error)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(pf.BadInput) as error:
        list(batches_of(["a"], model(folder=folder)))
    assert "tokenizer.json is no tokenizer" in one_sentence(error)
