"""Modules of PyTorch: inputs and outputs by name, dimensions that vary, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import pocketformer as pf
from pocketformer.compiler.frontends.torch import load_torch
from tests.numerics.check import assert_close, compile_plainly

torch = pytest.importorskip("torch")


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(8, 5)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: Any, shift: Any = None, named: bool = False) -> Any:
        out = torch.tanh(self.dropout(self.linear(x)))
        if shift is not None:
            out = out + shift
        return {"hidden": out, "parts": (out.sum(-1), out.exp())} if named else out


class Branch(torch.nn.Module):
    """Chooses by the input's values, which torch.export refuses."""

    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x - 1


X = torch.linspace(-1, 1, 24).reshape(3, 8)


def agree(model: pf.Model, module: Any, **inputs: Any) -> None:
    with torch.no_grad():
        expected = module.eval()(**inputs)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    assert_close(compile_plainly(model)(arrays), [expected.numpy()])


def shapes(specs: tuple[pf.TensorSpec, ...]) -> list[str]:
    return [str(spec) for spec in specs]


def test_agrees_with_the_module() -> None:
    module = Small()
    agree(load_torch(module, X), module, x=X)


@pytest.mark.parametrize("example", [X, (X,), {"x": X}], ids=["tensor", "tuple", "dict"])
def test_inputs_have_the_names_of_forward(example: Any) -> None:
    model = load_torch(Small(), example)
    assert shapes(model.inputs) == ["x: float32[3, 8]"]
    assert shapes(model.outputs) == ["output: float32[3, 5]"]


def test_outputs_have_the_keys_of_what_forward_returns() -> None:
    model = load_torch(Small(), {"x": X, "named": True})
    assert [spec.name for spec in model.outputs] == ["hidden", "parts_0", "parts_1"]


def test_weights_have_the_names_that_the_module_gives_them() -> None:
    model = load_torch(Small(), X)
    assert list(model.weights) == ["linear.weight"]    # the bias is small: a constant
    assert model.name == "Small"


def test_the_module_is_left_in_the_mode_that_it_was_in() -> None:
    module = Small().train()
    module.dropout.eval()
    load_torch(module, X)
    assert module.training
    assert module.linear.training
    assert not module.dropout.training


def test_axes_stay_as_in_the_example_unless_they_are_named() -> None:
    model = load_torch(Small(), (X, torch.ones(5)), {"batch": "1..16"})
    assert shapes(model.inputs) == ["x: float32[batch, 8]", "shift: float32[5]"]
    assert {name: str(dim) for name, dim in model.dims.items()} == {"batch": "1..16"}


def test_an_axis_is_named_by_its_index() -> None:
    module = Small()
    model = load_torch(module, X[:1], {"x.0": "1..16"})
    assert shapes(model.inputs) == ["x: float32[x_0, 8]"]
    agree(model, module, x=X)


def test_a_size_that_differs_from_the_example_is_taken() -> None:
    module = Small()
    model = load_torch(module, X[:1], {"batch": 3})
    assert shapes(model.outputs) == ["output: float32[3, 5]"]
    agree(model, module, x=X)


def test_axes_that_must_be_equal_share_a_dimension() -> None:
    class Product(torch.nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return a @ b.T

    given = (torch.ones(4, 6), torch.ones(4, 6))
    model = load_torch(Product(), given, {"a.1": "1..9", "b.1": "1..9", "a.0": "1..5"})
    assert shapes(model.inputs) == ["a: float32[a_0, a_1]", "b: float32[4, a_1]"]


def test_code_that_decides_by_values_is_traced_and_says_so() -> None:
    with pytest.warns(UserWarning, match="it was traced"):
        model = load_torch(Branch(), X + 2)
    agree(model, Branch(), x=X + 2)


def test_an_axis_that_cannot_vary_is_refused() -> None:
    with pytest.raises(pf.BadDim, match=r"'x_1' cannot vary: with 7 in the place of 8 the module"):
        load_torch(Small(), X, {"x.1": "1..9"})


def test_an_unknown_dimension_lists_the_choices() -> None:
    with pytest.raises(pf.BadDim, match=r"no dimension 'seq'; there are batch, x\.0, x\.1$"):
        load_torch(Small(), X, {"seq": "1..9"})


class Nothing(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return str(x.shape)


class ByPosition(torch.nn.Module):
    def forward(self, *xs: Any) -> Any:
        return xs[0]


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (Small(), None, "needs example_inputs"),
        (Small(), 3, "give a tensor, a tuple of tensors or a dict"),
        (Small(), {"z": X}, r"do not fit Small.forward\(x, shift, named\)"),
        (Small(), {"x": [1.0]}, "example input 'x' is a list"),
        (Small(), {"x": None}, "no tensor among the example inputs"),
        (Small(), X[:, :7], "cannot be exported: torch.export says RuntimeError: .*; tracing says"),
        (Nothing(), X, "Nothing returns no tensor"),
        (ByPosition(), (X,), "takes 'xs' by position only"),
    ],
)
def test_refuses_in_one_sentence(module: Any, example: Any, message: str) -> None:
    with pytest.raises(pf.BadModel, match=message) as caught:
        pf.load(module, example_inputs=example)
    assert "\n" not in str(caught.value)


def test_exporting_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="it was traced"):
        load_torch(Branch(), X)
    assert capfd.readouterr() == ("", "")


def test_a_missing_torch_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['onnxscript'] = None\n"
        "import torch, pocketformer as pf\n"
        "try: pf.load(torch.nn.Linear(2, 2), example_inputs=torch.ones(1, 2))\n"
        "except pf.MissingPackage as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    assert "needs onnxscript" in said
    assert 'pip install "pocketformer[torch]"' in said


def test_loading_onnx_needs_neither_torch_nor_transformers(tmp_path: Any) -> None:
    from tests.encoder import encoder

    path = tmp_path / "encoder.onnx"
    import onnx

    onnx.save(encoder(), path)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        f"import pocketformer as pf; print(len(pf.load({str(path)!r}).inputs))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    assert int(said) == 2


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere/model.onnx", {}, "no file or folder 'nowhere/model.onnx'; .* nothing is"),
        (3, {}, "cannot load a int; give the path"),
        (np.ones(3), {}, "cannot load a ndarray; give the path"),
        ("x.onnx", {"example_inputs": X}, "example_inputs go with a PyTorch module"),
        ("x.onnx", {"component": "encoder"}, "component goes with a Hugging Face folder"),
    ],
    ids=["missing", "number", "array", "example", "component"],
)
def test_load_says_what_it_takes(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pf.BadModel, match=message):
        pf.load(source, **options)


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".safetensors", ".tflite", ".gguf"])
def test_load_names_other_formats(tmp_path: Any, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"something")
    with pytest.raises(pf.BadModel, match="is not an ONNX file but"):
        pf.load(path)
