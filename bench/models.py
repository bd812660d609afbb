"""The models of models.toml: their weights as Hugging Face folders, their modules, their inputs."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.errors import MissingPackage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
WORK = Path(os.environ.get("POCKETFORMER_BENCH") or HERE.parent / "build" / "bench")
SEED = 0
SAVED = "model.safetensors"


@dataclass(frozen=True)
class BenchModel:
    """A table of models.toml.

    `architecture` is a class of transformers, `part` the attribute of an instance that is exported,
    `output` the field of its result. The weights come from the `folder` of an installed `package`,
    or are random ones for `settings` of the class's config, where `gain` is the scale of a linear
    layer's output by that of its input. `inputs` are axes by name: a number, or the name of a size;
    `below` bounds the integers. `exporter` is the one of torch's two that takes the model,
    `optimizer` what onnxruntime's optimizer tool calls its kind.
    """

    name: str
    architecture: str
    output: str
    inputs: Mapping[str, tuple[int | str, ...]]
    below: Mapping[str, int] = field(default_factory=dict)
    part: str = ""
    package: str = ""
    folder: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    gain: float = 1.0
    exporter: str = "legacy"
    optimizer: str = ""

    @property
    def work(self) -> Path:
        """Where its files are kept between runs."""
        place = WORK / self.name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def sized(self, sizes: Mapping[str, int]) -> Path:
        """Where the files are that are for these sizes alone: large, and not kept."""
        place = self.work / "-".join(f"{axis}{size}" for axis, size in sizes.items())
        place.mkdir(exist_ok=True)
        return place

    @property
    def has_length(self) -> bool:
        return any("seq" in axes for axes in self.inputs.values())

    def axes(self) -> dict[str, dict[int, str]]:
        """The named axes of each input by position."""
        return {
            name: {at: axis for at, axis in enumerate(axes) if isinstance(axis, str)}
            for name, axes in self.inputs.items()
        }

    def arrays(self, sizes: Mapping[str, int], seed: int = 1) -> Arrays:
        """Random inputs: floats are normal, integers below their bound, and masks all ones."""
        random = np.random.default_rng(seed)
        found: Arrays = {}
        for name, axes in self.inputs.items():
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in axes]
            if name in self.below:
                found[name] = random.integers(0, self.below[name], shape, np.int64)
            elif "mask" in name:
                found[name] = np.ones(shape, np.int64)
            elif "token_type" in name:
                found[name] = np.zeros(shape, np.int64)
            else:
                found[name] = random.standard_normal(shape, np.float32)
        return found

    def source(self) -> Path:
        """Its Hugging Face folder. Raises MissingPackage where the package with it is missing."""
        if not self.package:
            return self._random()
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise MissingPackage(f"the package {self.package} is missing; `make bench` installs it")
        return Path(found.origin).parent / self.folder

    def _random(self) -> Path:
        """A folder of random weights, the same on every machine."""
        import torch
        import transformers

        place = self.work / "weights"
        if not (place / SAVED).exists():
            architecture = getattr(transformers, self.architecture)
            torch.manual_seed(SEED)
            model = architecture(architecture.config_class(**self.settings))
            spread(model, self.gain)
            model.save_pretrained(place)
        return place

    def module(self, attention: str = "eager", names: tuple[str, ...] = ()) -> Any:
        """A torch module of plain tensors in and out, its inputs `names`, by default all.

        `attention` is the implementation that transformers is to take.
        """
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        architecture = getattr(transformers, self.architecture)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")    # about its own future
            whole = architecture.from_pretrained(self.source(), attn_implementation=attention)
        inner = getattr(whole, self.part) if self.part else whole
        given, output = names or tuple(self.inputs), self.output

        class OneOutput(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *tensors: Any) -> Any:
                return getattr(self.inner(**dict(zip(given, tensors, strict=True))), output)

        return OneOutput().eval()


def read_models() -> dict[str, BenchModel]:
    """The models of models.toml by name."""
    tables = tomllib.loads((HERE / "models.toml").read_text())
    return {name: BenchModel(name, **table) for name, table in tables.items()}


def spread(module: Any, gain: float) -> None:
    """Draw the layers anew so that signals keep their scale and every bias and norm matters."""
    import torch

    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.ndim <= 1:
                value.add_(0.1 * torch.randn_like(value))
            elif not any(word in name for word in ("embed", "wte", "wpe")):
                value.copy_(torch.randn_like(value) * gain * (value[0].numel() ** -0.5))
