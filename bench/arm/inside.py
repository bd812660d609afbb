"""Runs inside the emulator, with nothing but numpy and one engine: marks single runs of a model.

    python inside.py ENGINE MODEL INPUTS.npz OUTPUTS.npz SIZES

The system calls around a run are what count_blocks.c looks for. SIZES is JSON: the sizes of the
model's named dimensions.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

MARK, RUN_BEGINS, RUN_ENDS = 0x5155, 3, 4
WARM_UPS, RUNS = 2, 2       # memory is reserved in the first runs
Arrays = dict[str, np.ndarray]
Engine = tuple[Callable[[], Any], Callable[[Any], Arrays]]      # a run; its result's arrays


def main() -> None:
    engine, model, inputs, outputs, sizes = sys.argv[1:]
    with np.load(inputs) as file:
        arrays = dict(file)
    run, arrays_of = ENGINES[engine](model, arrays, json.loads(sizes))
    mark = ctypes.CDLL(None).syscall
    for _ in range(WARM_UPS):
        run()
    for index in range(RUNS):
        mark(MARK, RUN_BEGINS, index)
        result = run()
        mark(MARK, RUN_ENDS, index)
    np.savez(outputs, **arrays_of(result))  # type: ignore[arg-type]


def onnxruntime(model: str, arrays: Arrays, sizes: dict[str, int]) -> Engine:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for dimension, size in sizes.items():
        options.add_free_dimension_override_by_name(dimension, size)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {item.name: arrays[item.name] for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]
    return lambda: session.run(names, given), lambda values: dict(zip(names, values, strict=True))


def litert(model: str, arrays: Arrays, sizes: dict[str, int]) -> Engine:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    # The converter numbers the inputs of the source in their order.
    places = sorted(interpreter.get_input_details(), key=lambda place: place["name"])
    for place, array in zip(places, arrays.values(), strict=True):
        interpreter.set_tensor(place["index"], array.astype(place["dtype"]))
    results = interpreter.get_output_details()

    def read(nothing: None) -> Arrays:
        return {f"output_{i}": interpreter.get_tensor(r["index"]) for i, r in enumerate(results)}

    return interpreter.invoke, read


ENGINES = {"onnxruntime": onnxruntime, "litert": litert}


if __name__ == "__main__":
    main()
