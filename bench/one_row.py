"""What a classifier saves that reads one row of its last layer: the same bundle with and without.

`python -m bench.one_row` compiles BERT classifiers of 1, 4 and 12 layers (hidden size 384, length
128) as they are and without the pass prune_rows, and times both in turns. `--without merge_qkv`
shows what another pass saves.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from unittest.mock import patch

import numpy as np

import pocketformer as pf
from pocketformer.compiler import pipeline
from pocketformer.compiler.frontends import load

SIZES = {"vocab_size": 1000, "hidden_size": 384, "num_attention_heads": 12,
         "intermediate_size": 1536, "max_position_embeddings": 512, "num_labels": 2}    # fmt: skip


def classifier(layers: int, length: int) -> pf.Model:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=layers, **SIZES)
    model = BertForSequenceClassification(config).eval()
    ids = torch.ones((1, length), dtype=torch.int64)
    return load(model, example_inputs={"input_ids": ids, "attention_mask": ids})


def sessions(model: pf.Model, step: str, threads: int) -> list[pf.Session]:
    """One of the model as it is compiled, and one without the pass `step`."""
    steps = [each for each in pipeline.graph() if each.name != step]
    usual = pf.compile(model)
    with patch.object(pipeline, "graph", lambda: iter(steps)):
        without = pf.compile(model)
    return [pf.Session(bundle, threads=threads) for bundle in (usual, without)]


def race(contenders: list[pf.Session], length: int, seconds: float) -> list[float]:
    """The shortest run of each in milliseconds; all take turns for `seconds`."""
    ids = np.ones((1, length), np.int64)
    given = {spec.name: ids for spec in contenders[0].inputs}
    results = [next(iter(session.run(**given).values())) for session in contenders]
    limit = 1e-4 * np.abs(results[1]).max()
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=limit)
    best = [float("inf")] * len(contenders)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for place, session in enumerate(contenders):
            begin = time.perf_counter()
            session.run(**given)
            best[place] = min(best[place], 1e3 * (time.perf_counter() - begin))
    return best


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    names = [step.name for step in pipeline.graph()]
    parser.add_argument("--without", metavar="PASS", choices=names, default="prune_rows")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 4, 12])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    print("layers  without ms  with ms  saved")
    for layers in options.layers:
        model = classifier(layers, options.length)
        contenders = sessions(model, options.without, options.threads)
        usual, without = race(contenders, options.length, options.seconds)
        saved = 1 - usual / without
        print(f"{layers:6}  {without:10.3f}  {usual:7.3f}  {saved:5.1%}", flush=True)


if __name__ == "__main__":
    main()
