"""The engines that `bench` times. Construction imports their libraries, each in its own process."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketformer.compiler.arrays import Arrays, read_arrays, write_arrays


class Engine(ABC):
    """A model that is loaded once and then called on the same inputs, given as a .npz file."""

    inputs: Arrays

    @abstractmethod
    def load(self, path: str, inputs: str, threads: int, sizes: Mapping[str, int]) -> None:
        """Load the model at `path`; `sizes` tells its symbolic dimensions."""

    @abstractmethod
    def call(self) -> Arrays:
        """Run the model once on `self.inputs` and return its outputs by name."""

    def time(self, calls: int) -> list[float]:
        """The milliseconds that each of `calls` calls took."""
        elapsed = []
        for _ in range(calls):
            start = time.perf_counter_ns()
            self.call()
            elapsed.append((time.perf_counter_ns() - start) / 1e6)
        return elapsed

    def save(self, path: str) -> None:
        """Run once and write the outputs to a .npz file."""
        write_arrays(Path(path), self.call())


class Pocketformer(Engine):
    """A bundle in a Session."""

    def __init__(self) -> None:
        from pocketformer.compiler.session import Session
        from pocketformer.compiler.vm import runtime

        runtime()    # else the first bundle pays for its import
        self._session_type = Session

    def load(self, path: str, inputs: str, threads: int, sizes: Mapping[str, int]) -> None:
        self.inputs = read_arrays(Path(inputs))
        self.session = self._session_type(path, threads=threads)

    def call(self) -> Arrays:
        return self.session.run(self.inputs)


class Onnxruntime(Engine):
    """An ONNX file in onnxruntime, all its optimizations on and its symbolic dimensions told."""

    def __init__(self) -> None:
        import onnxruntime

        self._library = onnxruntime

    def load(self, path: str, inputs: str, threads: int, sizes: Mapping[str, int]) -> None:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_ENABLE_ALL
        for dimension, size in sizes.items():
            options.add_free_dimension_override_by_name(dimension, size)
        self.session = self._library.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        given = read_arrays(Path(inputs))
        self.inputs = {item.name: given[item.name] for item in self.session.get_inputs()}
        self.names = [item.name for item in self.session.get_outputs()]

    def call(self) -> Arrays:
        return dict(zip(self.names, self.session.run(self.names, self.inputs), strict=True))


class Compiler:
    """The compiler itself, to measure its time and memory apart from those of its imports."""

    def __init__(self) -> None:
        from pocketformer.compiler import recipe
        from pocketformer.compiler.build import compile

        self._compile, self._recipes = compile, recipe

    def compile(
        self, source: str, output: str, recipe: str = "float32", calibrate: str | None = None,
        **options: Any,
    ) -> None:
        """Compile `source` by the recipe of this name and save the bundle.

        `calibrate` is a file or folder for a recipe that is calibrated.
        """
        chosen = self._recipes.recipe_named(recipe)
        if self._recipes.is_quantized(chosen):
            chosen = replace(chosen, calibration=calibrate)
        self._compile(source, recipe=chosen, **options).save(Path(output))
