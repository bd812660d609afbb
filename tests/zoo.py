"""Tiny Transformers with random weights, one of every family that must compile, and their export.

The weights are drawn anew so that no output is close to zero and every bias, norm and batch-norm
statistic matters; a model whose attention or mask is compiled wrongly gives other numbers.
"""

from __future__ import annotations

import functools
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
VOCAB = 101


@dataclass(frozen=True)
class ZooModel:
    """A tiny model: `make()` builds it, `inputs(batch, seq)` its inputs, `axes` name their axes."""

    name: str
    make: Callable[[], Any]
    inputs: Callable[[int, int], Arrays]
    axes: Mapping[str, Mapping[int, str]]

    def __str__(self) -> str:
        return self.name

    @property
    def has_seq(self) -> bool:
        """Whether the length of the input may vary; it is fixed for images and for audio."""
        return any("seq" in names.values() for names in self.axes.values())


def spread_weights(module: Any, seed: int = 0, scale: float = 1.0) -> Any:
    """Draw all parameters and statistics of `module` anew; signals stay near one."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(like: Any) -> Any:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif name.endswith("running_mean"):
                value.copy_(0.2 * normal(value))
            elif not value.is_floating_point() or name.endswith("inv_freq"):
                continue
            elif value.ndim <= 1:
                is_scale = name.endswith("weight")
                value.copy_((1.0 if is_scale else 0.0) + 0.1 * normal(value))
            elif "embed" in name or name.endswith(("wte.weight", "wpe.weight", "shared.weight")):
                value.copy_(0.7 * normal(value))
            else:
                fan_in = value.numel() // value.shape[0]
                gain = 1.5 if value.ndim == 4 else 1.0    # an activation halves what a conv gives
                value.copy_(normal(value) * scale * gain * fan_in**-0.5)
    return module.eval()


def ids(batch: int, seq: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCAB, (batch, seq), dtype=np.int64)


def mask(batch: int, seq: int) -> np.ndarray:
    """Ones, but for the last third of every second row, and one token of every third row."""
    keep = np.ones((batch, seq), np.int64)
    keep[1::2, seq - seq // 3 :] = 0
    keep[0::3, seq // 2] = 0 if seq > 2 else 1
    return keep


def floats(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def text_inputs(batch: int, seq: int) -> Arrays:
    return {"input_ids": ids(batch, seq), "attention_mask": mask(batch, seq)}


def bert_inputs(batch: int, seq: int) -> Arrays:
    types = np.zeros((batch, seq), np.int64)
    types[:, seq // 2 :] = 1
    return {**text_inputs(batch, seq), "token_type_ids": types}


TEXT_AXES = {name: {0: "batch", 1: "seq"} for name in ("input_ids", "attention_mask")}
BERT_AXES = {**TEXT_AXES, "token_type_ids": {0: "batch", 1: "seq"}}
BERT_SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}


def build(architecture: str, config: str, scale: float = 1.0, **sizes: Any) -> Any:
    """An instance of a class of transformers, named with its config class, of these sizes."""
    import transformers

    settings = getattr(transformers, config)(**sizes)
    return spread_weights(getattr(transformers, architecture)(settings), scale=scale)


def t5() -> Any:
    return build("T5ForConditionalGeneration", "T5Config", vocab_size=VOCAB, d_model=32, d_kv=8,
                 d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4, use_cache=False,
                 feed_forward_proj="gated-gelu", decoder_start_token_id=0)


def whisper() -> Any:
    return build("WhisperForConditionalGeneration", "WhisperConfig", vocab_size=VOCAB,
                 num_mel_bins=16, d_model=32, encoder_layers=2, decoder_layers=2,
                 encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
                 decoder_ffn_dim=64, max_source_positions=24, max_target_positions=48,
                 pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
                 begin_suppress_tokens=None, suppress_tokens=None, use_cache=False)


def decoder_of(whole: Any, names: tuple[str, ...]) -> Any:
    """The decoder of an encoder-decoder model with its head, as a module of plain tensors."""
    import torch

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = whole.get_decoder()
            self.head = whole.get_output_embeddings()

        def forward(self, input_ids: Any, encoder_hidden_states: Any, **rest: Any) -> Any:
            found = self.decoder(input_ids=input_ids, encoder_hidden_states=encoder_hidden_states,
                                 use_cache=False, **rest)
            return self.head(found.last_hidden_state)

    class MaskedDecoder(Decoder):
        def forward(self, input_ids: Any, encoder_hidden_states: Any,
                    encoder_attention_mask: Any) -> Any:
            return super().forward(input_ids, encoder_hidden_states,
                                   encoder_attention_mask=encoder_attention_mask)

    class PlainDecoder(Decoder):
        def forward(self, input_ids: Any, encoder_hidden_states: Any) -> Any:
            return super().forward(input_ids, encoder_hidden_states)

    return (MaskedDecoder if "encoder_attention_mask" in names else PlainDecoder)().eval()


def t5_decoder_inputs(batch: int, seq: int) -> Arrays:
    return {"input_ids": ids(batch, seq), "encoder_hidden_states": floats(batch, 11, 32),
            "encoder_attention_mask": mask(batch, 11)}


T5_DECODER_AXES = {"input_ids": {0: "batch", 1: "seq"},
                   "encoder_hidden_states": {0: "batch", 1: "encoder_seq"},
                   "encoder_attention_mask": {0: "batch", 1: "encoder_seq"}}


def whisper_decoder_inputs(batch: int, seq: int) -> Arrays:
    return {"input_ids": ids(batch, seq), "encoder_hidden_states": floats(batch, 24, 32)}


def pixels(batch: int, seq: int) -> Arrays:
    return {"pixel_values": floats(batch, 3, 64, 64)}


IMAGE_AXES = {"pixel_values": {0: "batch"}}

ZOO = (
    ZooModel("bert", lambda: build("BertModel", "BertConfig", **BERT_SIZES),
             bert_inputs, BERT_AXES),
    ZooModel("roberta", lambda: build("RobertaForSequenceClassification", "RobertaConfig",
                                      **BERT_SIZES, pad_token_id=1, num_labels=5),
             text_inputs, TEXT_AXES),
    ZooModel("distilbert", lambda: build("DistilBertForMaskedLM", "DistilBertConfig",
                                         vocab_size=VOCAB, dim=32, n_layers=2, n_heads=4,
                                         hidden_dim=64, max_position_embeddings=64),
             text_inputs, TEXT_AXES),
    # It has no real norms, so that signals grow from layer to layer, and errors with them.
    ZooModel("mobilebert", lambda: build("MobileBertModel", "MobileBertConfig", scale=0.5,
                                         vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2,
                                         num_attention_heads=4, intermediate_size=64,
                                         embedding_size=16, intra_bottleneck_size=32,
                                         num_feedforward_networks=2, max_position_embeddings=64),
             bert_inputs, BERT_AXES),
    # TinyBERT-4: a BERT of 4 layers with an odd head size (312 / 12 = 26; here 48 / 12 = 4).
    ZooModel("tinybert", lambda: build("BertForSequenceClassification", "BertConfig",
                                       **{**BERT_SIZES, "num_hidden_layers": 4, "hidden_size": 52,
                                          "intermediate_size": 100}),
             bert_inputs, BERT_AXES),
    ZooModel("gpt2", lambda: build("GPT2LMHeadModel", "GPT2Config", vocab_size=VOCAB, n_embd=32,
                                   n_layer=2, n_head=4, n_positions=64, use_cache=False),
             text_inputs, TEXT_AXES),
    ZooModel("llama", lambda: build("LlamaForCausalLM", "LlamaConfig", vocab_size=VOCAB,
                                    hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                    num_attention_heads=4, num_key_value_heads=2,
                                    max_position_embeddings=64, use_cache=False),
             text_inputs, TEXT_AXES),
    ZooModel("t5_encoder", lambda: t5().get_encoder(), text_inputs, TEXT_AXES),
    ZooModel("t5_decoder", lambda: decoder_of(t5(), tuple(T5_DECODER_AXES)),
             t5_decoder_inputs, T5_DECODER_AXES),
    ZooModel("whisper_encoder", lambda: whisper().get_encoder(),
             lambda batch, seq: {"input_features": floats(batch, 16, 48)},
             {"input_features": {0: "batch"}}),
    ZooModel("whisper_decoder", lambda: decoder_of(whisper(), ()), whisper_decoder_inputs,
             {"input_ids": {0: "batch", 1: "seq"}, "encoder_hidden_states": {0: "batch"}}),
    ZooModel("vit", lambda: build("ViTForImageClassification", "ViTConfig", hidden_size=32,
                                  num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                                  image_size=64, patch_size=16, num_labels=7),
             pixels, IMAGE_AXES),
    ZooModel("mobilevit", lambda: build("MobileViTForImageClassification", "MobileViTConfig",
                                        image_size=64, hidden_sizes=[16, 24, 32],
                                        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 48],
                                        num_attention_heads=4, num_labels=7),
             pixels, IMAGE_AXES),
)
BY_NAME = {model.name: model for model in ZOO}
EXPORTERS = ("dynamo", "legacy")
EXAMPLE = (2, 12)    # batch and length of the example that is exported; none of them is special


@functools.cache
def made(name: str) -> Any:
    """The module of this name, built once."""
    return BY_NAME[name].make()


def by_position(module: Any, names: tuple[str, ...]) -> Any:
    """`module` taking its inputs by position, which is all that the legacy exporter can follow."""
    import torch

    class ByPosition(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            found = self.inner(**dict(zip(names, tensors, strict=True)))
            return found.to_tuple() if hasattr(found, "to_tuple") else found

    return ByPosition().eval()


def export(model: ZooModel, exporter: str, dynamic: bool, path: Path) -> None:
    """Write `model` as ONNX, as a user would with torch.onnx.export; raises what torch raises."""
    import torch

    tensors = {name: torch.from_numpy(a) for name, a in model.inputs(*EXAMPLE).items()}
    shared: dict[str, Any] = {"input_names": list(tensors)}
    module = made(model.name)
    if exporter == "dynamo":
        shared |= {"dynamo": True, "external_data": False, "verbose": False, "kwargs": tensors}
        if dynamic:
            # Dim.AUTO would do, but named axes are what a careful user writes.
            dims = {axis: torch.export.Dim(axis, min=1, max=64)
                    for names in model.axes.values() for axis in names.values()}
            shared["dynamic_shapes"] = {
                name: {axis: dims[label] for axis, label in names.items()}
                for name, names in model.axes.items()}
    else:
        module = by_position(module, tuple(tensors))
        shared |= {"dynamo": False, "opset_version": 17, "args": tuple(tensors.values())}
        if dynamic:
            shared["dynamic_axes"] = {name: dict(names) for name, names in model.axes.items()}
    with warnings.catch_warnings(), torch.no_grad(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            torch.onnx.export(module, f=str(path), **shared)
        finally:
            logging.disable(logging.NOTSET)
