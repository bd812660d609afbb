"""What a model of transformers takes, read from its forward signature and its config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.errors import BadDim, BadModel
from pocketformer.compiler.model import Dim

if TYPE_CHECKING:
    from pocketformer.compiler.frontends.torch_export import Tensors

# Sizes of the example along dimensions that stay symbolic: none that code would treat specially.
EXAMPLE = {"batch": 2, "seq": 16, "decoder_seq": 12, "encoder_seq": 14}


@dataclass(frozen=True)
class Input:
    """An input: its axes are sizes or dimensions' names, its values ids below `below` or floats."""

    name: str
    shape: tuple[int | str, ...]
    below: int | None = None


@dataclass(frozen=True)
class Signature:
    inputs: tuple[Input, ...]
    limits: dict[str, Dim] = field(default_factory=dict)    # of every dimension


def own_signature(run: Any, whole: Any) -> Signature:
    """What `run` takes: `whole` itself or its encoder. Raises BadModel for an unknown kind."""
    config = whole.config
    main = str(run.main_input_name)
    if main == "input_ids":
        return _text(run, config.get_text_config())
    batch = {"batch": Dim()}
    if main == "pixel_values":
        height, width = _image_size(config)
        channels = int(getattr(config, "num_channels", 3))
        return Signature((Input(main, ("batch", channels, height, width)),), batch)
    if main == "input_features" and hasattr(config, "max_source_positions"):
        # The encoder's second convolution halves the number of frames.
        frames = 2 * int(config.max_source_positions)
        return Signature((Input(main, ("batch", int(config.num_mel_bins), frames)),), batch)
    raise BadModel(
        f"{type(whole).__name__} takes {main!r}, of which a folder does not tell the shape; "
        "build the module and load it with example_inputs"
    )


def decoder_signature(whole: Any) -> Signature:
    """What the decoder of `whole` takes, with the encoder's result as an input."""
    config = whole.config
    text = config.get_text_config(decoder=True)
    encoder = whole.get_encoder()
    limits = {"batch": Dim(), "decoder_seq": Dim(high=_longest(whole.get_decoder(), text))}
    length: int | str = "encoder_seq"
    if encoder.main_input_name == "input_features" and hasattr(config, "max_source_positions"):
        length = int(config.max_source_positions)
    else:
        limits["encoder_seq"] = Dim(high=_longest(encoder, encoder.config))
    inputs = [
        Input("decoder_input_ids", ("batch", "decoder_seq"), int(text.vocab_size)),
        Input("encoder_hidden_states", ("batch", length, int(encoder.config.hidden_size))),
    ]
    if encoder.main_input_name == "input_ids":
        inputs.append(Input("encoder_attention_mask", ("batch", length), 2))
    return Signature(tuple(inputs), limits)


def _text(run: Any, config: Any) -> Signature:
    known = inspect.signature(run.forward).parameters
    axes = ("batch", "seq")
    inputs = [Input("input_ids", axes, int(config.vocab_size))]
    if "attention_mask" in known:
        inputs.append(Input("attention_mask", axes, 2))
    if "token_type_ids" in known and getattr(config, "type_vocab_size", 0) > 1:
        inputs.append(Input("token_type_ids", axes, int(config.type_vocab_size)))
    return Signature(tuple(inputs), {"batch": Dim(), "seq": Dim(high=_longest(run, config))})


def _longest(module: Any, config: Any) -> int | None:
    """The longest text for which there are positions, or None."""
    import torch

    for name, part in module.named_modules():
        # Such tables number positions from the padding id on, as RoBERTa's.
        padding = getattr(part, "padding_idx", None)
        is_positions = name.endswith(("position_embeddings", "embed_positions"))
        if is_positions and isinstance(part, torch.nn.Embedding) and padding is not None:
            return int(part.num_embeddings) - int(padding) - 1
    for key in ("max_target_positions", "max_position_embeddings"):
        if (longest := getattr(config, key, None)) is not None:
            return int(longest)
    return None


def _image_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    return 224, 224    # what nearly all image models without the setting are trained for


def resolve(
    signature: Signature, dims: Mapping[str, Dim]
) -> tuple[dict[str, int], dict[str, Dim]]:
    """The sizes of the dimensions that `dims` fixes, and the Dim of every other one.

    A key is a dimension's name, or `INPUT.AXIS` with that name or an index. Raises BadDim for
    another key and for sizes beyond what the model has positions for.
    """
    names = {name: name for name in signature.limits}
    for one in signature.inputs:
        for index, axis in enumerate(one.shape):
            if isinstance(axis, str):
                names |= {f"{one.name}.{axis}": axis, f"{one.name}.{index}": axis}
    chosen = dict(signature.limits)
    for key, dim in dims.items():
        if key not in names:
            known = ", ".join(signature.limits)
            raise BadDim(f"the model has no dimension {key!r}; its dimensions are {known}")
        limit = signature.limits[names[key]].high
        if limit is not None and max(dim.low, dim.high or 0) > limit:
            raise BadDim(f"dimension {key!r} is asked to be {dim}, but the model ends at {limit}")
        wanted = Dim(dim.low, limit if dim.high is None else dim.high, dim.buckets)
        if chosen[names[key]] not in (signature.limits[names[key]], wanted):
            said = f"{chosen[names[key]]} and also {wanted}"
            raise BadDim(f"dimension {names[key]!r} is said to be {said}")
        chosen[names[key]] = wanted
    sizes = {name: dim.low for name, dim in chosen.items() if dim.fixed is not None}
    return sizes, {name: dim for name, dim in chosen.items() if name not in sizes}


def example(
    signature: Signature, sizes: Mapping[str, int]
) -> tuple[Tensors, dict[str, dict[int, str]]]:
    """Random inputs, and the symbols of their axes whose size is not in `sizes`."""
    import torch

    generator = torch.Generator().manual_seed(0)
    usual = {
        name: min(EXAMPLE[name], limit.high or EXAMPLE[name])
        for name, limit in signature.limits.items()
    }
    tensors, symbols = {}, {}
    for one in signature.inputs:
        shape = [
            {**usual, **sizes}[axis] if isinstance(axis, str) else axis for axis in one.shape
        ]
        if one.below is None:
            tensors[one.name] = torch.randn(shape, generator=generator)
        else:
            tensors[one.name] = torch.randint(one.below, shape, generator=generator)
        # No row of a mask may be nothing but zeros.
        if one.below == 2 and one.name.endswith("mask"):
            tensors[one.name] = torch.ones_like(tensors[one.name])
        symbols[one.name] = {
            index: axis
            for index, axis in enumerate(one.shape)
            if isinstance(axis, str) and axis not in sizes
        }
    return tensors, symbols
