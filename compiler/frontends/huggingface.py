"""A folder that transformers' save_pretrained wrote -> Model; or one that holds an ONNX file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.errors import BadModel, MissingPackage
from pocketformer.compiler.frontends.folder import check_weights, find_onnx, read_config
from pocketformer.compiler.frontends.huggingface_inputs import (
    decoder_signature,
    example,
    own_signature,
    resolve,
)
from pocketformer.compiler.frontends.onnx import load_onnx
from pocketformer.compiler.frontends.torch import need
from pocketformer.compiler.frontends.torch_export import Export, load_export
from pocketformer.compiler.frontends.torch_quiet import quiet, reason
from pocketformer.compiler.model import Dim, Model

if TYPE_CHECKING:
    import torch

    from pocketformer.compiler.frontends.torch_export import Tensors

# Outputs that training and research read: not worth computing on a phone.
EXTRA_OUTPUTS = frozenset({"encoder_last_hidden_state", "hidden_states", "attentions", "loss"})


def load_folder(
    path: str | Path,
    dims: Mapping[str, Dim] | None = None,
    component: str | None = None,
    name: str | None = None,
) -> Model:
    """The Model of a folder with config.json and model.safetensors (in one file or in shards).

    The class is the one that the config's `architectures` names, so that a task's head is included;
    code from the folder is never run. Inputs and outputs have transformers' names. Without `dims`
    the dimensions `batch` and `seq` (of text) stay symbolic, `seq` up to the model's longest text.
    A model of two parts is loaded part by part: `component="encoder"` takes what the whole takes;
    `component="decoder"` takes `decoder_input_ids` [batch, decoder_seq], `encoder_hidden_states`
    [batch, encoder_seq, width] and, for text, `encoder_attention_mask`, and gives `logits`.

    Raises BadModel for a folder that is incomplete, damaged or of an unknown architecture, BadDim,
    and MissingPackage without transformers.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BadModel(f"there is no folder {str(folder)!r}")
    name = name or folder.resolve().name
    if (onnx_file := find_onnx(folder)) is not None:
        if component is not None:
            raise BadModel(f"component goes with weights; {onnx_file.name} is a single model")
        return load_onnx(onnx_file, dims, name)
    config = read_config(folder)
    architecture = _named_architecture(config)
    check_weights(folder, architecture)
    model, missing = _load(folder, _class_of(architecture, needs_code="auto_map" in config))
    _check_component(model, component)
    export, left = _export_of(model, component, bool(missing), dims or {})
    return load_export(export, left, name)


def _named_architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise BadModel('config.json names no architecture; it needs "architectures": ["..."]')
    return names[0]


def _class_of(architecture: str, needs_code: bool) -> Any:
    """The class of transformers with this name."""
    need("torch", "onnxscript")
    try:
        import transformers
    except ImportError as error:
        raise MissingPackage(
            f"loading a Hugging Face folder needs {error.name}; "
            'run: pip install "pocketformer[huggingface]"'
        ) from error
    found = getattr(transformers, architecture, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    if needs_code:
        raise BadModel(
            f"the architecture {architecture!r} needs code of its own (auto_map), which is never "
            "run; build the module yourself and load it with example_inputs"
        )
    raise BadModel(
        f"transformers {transformers.__version__} has no architecture {architecture!r}; "
        "a newer one may have it"
    )


def _load(folder: Path, architecture: Any) -> tuple[torch.nn.Module, list[str]]:
    """The module in float32, and the names of the weights that the folder does not have."""
    import torch

    try:
        with quiet():
            model, info = architecture.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                # Gives graphs with fewer operators than torch's fused attention, which exporters
                # surround with checks for rows that are masked completely.
                attn_implementation="eager",
                output_loading_info=True,
            )
    except Exception as error:    # transformers raises whatever the model's own code raises
        raise BadModel(
            f"transformers cannot load {str(folder)!r} as {architecture.__name__}: {reason(error)}"
        ) from error
    missing = sorted(info["missing_keys"])
    if lost := [key for key in missing if "pooler" not in key]:
        raise BadModel(
            f"the weights in {str(folder)!r} lack {len(lost)} that {architecture.__name__} needs, "
            f"such as {lost[0]!r}"
        )
    return model, missing


def _check_component(model: Any, component: str | None) -> None:
    if not model.config.is_encoder_decoder:
        if component is not None:
            raise BadModel(f"{type(model).__name__} is a single model without components")
    elif component not in ("encoder", "decoder"):
        asked = "" if component is None else f", not {component!r}"
        raise BadModel(
            f"{type(model).__name__} has two parts that run at different times; "
            f"choose component 'encoder' or 'decoder'{asked}"
        )


def _export_of(
    model: Any, component: str | None, without_pooler: bool, dims: Mapping[str, Dim]
) -> tuple[Export, dict[str, Dim]]:
    """What to export, with the example's axes of the sizes that `dims` fixes; the other dims."""
    run = model.get_encoder() if component == "encoder" else model
    signature = decoder_signature(model) if component == "decoder" else own_signature(run, model)
    sizes, left = resolve(signature, dims)
    settings = {"return_dict": True, "use_cache": False}
    known = inspect.signature(run.forward).parameters
    settings = {key: value for key, value in settings.items() if {key, "kwargs"} & set(known)}

    def call(tensors: Tensors) -> dict[str, Any]:
        given = _for_whole(tensors) if component == "decoder" else tensors
        found = run(**given, **settings)
        return {
            key: value
            for key, value in found.items()
            if key not in EXTRA_OUTPUTS and not (without_pooler and key == "pooler_output")
        }

    inputs, symbols = example(signature, sizes)
    return Export(run, call, inputs, symbols), left


def _for_whole(tensors: Tensors) -> dict[str, Any]:
    """A decoder's inputs as the whole model takes them, which then leaves its encoder out."""
    from transformers.modeling_outputs import BaseModelOutput

    given: dict[str, Any] = {"decoder_input_ids": tensors["decoder_input_ids"]}
    given["encoder_outputs"] = BaseModelOutput(last_hidden_state=tensors["encoder_hidden_states"])
    if "encoder_attention_mask" in tensors:
        given["attention_mask"] = tensors["encoder_attention_mask"]
    return given
