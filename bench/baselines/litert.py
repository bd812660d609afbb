"""LiteRT: converts the PyTorch module at fixed sizes; XNNPACK runs what it can."""

from __future__ import annotations

from pathlib import Path

from bench.arm.wheels import litert_converter
from bench.baselines.peer import Peer, Refuses, Sizes, converted
from bench.models import BenchModel
from pocketformer.compiler.arrays import Arrays, read_arrays
from pocketformer.compiler.engines import Engine


class LiteRT(Engine):
    """A .tflite file in the interpreter, with the delegates that it applies by itself."""

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.library = Interpreter

    def load(self, path: str, inputs: str, threads: int, sizes: Sizes) -> None:
        self.interpreter = self.library(path, num_threads=threads)
        self.interpreter.allocate_tensors()
        # The converter numbers the inputs of the source in their order.
        places = sorted(self.interpreter.get_input_details(), key=lambda place: place["name"])
        given = read_arrays(Path(inputs)).values()
        self.given = [
            (place["index"], array.astype(place["dtype"]))
            for place, array in zip(places, given, strict=True)
        ]
        self.results = [place["index"] for place in self.interpreter.get_output_details()]

    def call(self) -> Arrays:
        for index, array in self.given:
            self.interpreter.set_tensor(index, array)
        self.interpreter.invoke()
        return {
            f"output_{number}": self.interpreter.get_tensor(index)
            for number, index in enumerate(self.results)
        }


def convert(model: BenchModel, sizes: Sizes, output: Path) -> None:
    """Write a .tflite file; runs where the converter's packages can be imported.

    Raises Refuses with what the converter raised, which may be any exception.
    """
    import litert_torch
    import torch

    example = tuple(torch.from_numpy(array) for array in model.arrays(sizes).values())
    module = model.module("sdpa")
    try:
        converted_model = litert_torch.convert(module, example)
    except (OSError, MemoryError, ImportError):    # the system's, or a package's
        raise
    except Exception as error:
        raise Refuses(f"{type(error).__name__}: {error}") from error
    converted_model.export(str(output))


PEERS = (
    Peer("litert", "LiteRT", f"{__name__}:LiteRT", ("ai-edge-litert",),
         converted(__name__, ".tflite", (), lambda: [litert_converter()])),
)
