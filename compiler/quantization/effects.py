"""How much each layer takes from a model's answers: measured, one layer after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.quantization.answers import counted_of, rows_of
from pocketformer.compiler.quantization.evaluation import Batches
from pocketformer.compiler.quantization.metrics import Answers, Sqnr
from pocketformer.compiler.quantization.padding import mask_of

# Batches tell well enough which layers cost most; each takes as many runs as there are layers.
SAMPLE = 32


def effects(
    run: Callable[[Arrays, np.ndarray], Arrays],
    batches: Batches,
    layers: int,
    outputs: Sequence[str],
    mask: str | None,
    tell: Progress,
) -> list[float]:
    """Of each layer the noise of the answers, as a part of the signal, when it alone is quantised.

    `run(batch, kept)` gives the outputs by name where the layers in `kept`, bool [layers], are in
    higher precision. Noise is summed over `outputs` and the rows that the input `mask` counts, of
    at most `SAMPLE` batches from first to last; it is infinite where answers are not finite. The
    noise of several layers is about the sum of theirs.
    """
    found = [[Sqnr() for _ in outputs] for _ in range(layers)]
    count = min(SAMPLE, len(batches))
    wanted = {place * len(batches) // count: place for place in range(count)}
    for number, batch in enumerate(batches):
        if number not in wanted:
            continue
        kept = np.ones(layers, bool)
        expected = run(batch, kept)
        for layer in range(layers):
            done = (wanted[number] + layer / layers) / count
            tell(f"batch {wanted[number] + 1} of {count}, layer {layer + 1} of {layers}", done)
            kept[layer] = False
            answers = run(batch, kept)
            kept[layer] = True
            for name, noise in zip(outputs, found[layer], strict=True):
                rows = rows_of(expected[name])
                counted = counted_of(mask_of(batch, mask), rows.shape)
                noise.update(Answers(rows, rows_of(answers[name]), counted))
    sums = [sum(noise.drop() for noise in each) for each in found]
    return [math.inf if math.isnan(each) else each for each in sums]
