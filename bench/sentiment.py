"""What a recipe costs in accuracy: all-MiniLM-L6-v2 on real sentences with labels.

    python -m bench.sentiment [--recipes float32 int8 ...] [--held-out 2000] [--json]

Embeddings of held-out sentences beside float32's: their cosine, and Spearman's correlation of all
pairs' similarities. A classifier is trained once on float32's embeddings of other sentences; its
accuracy is measured on what each recipe embeds. Calibration sees neither. Engines that are
installed are measured on the same. All results go to bench/results/sentiment.json and .md, those of
part of it to build/bench/results.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import pocketformer as pf
from bench import machine, onnx_files
from bench.baselines import nncf
from bench.baselines.openvino import core
from bench.calibration import COUNT
from bench.models import HERE, WORK, BenchModel, read_models
from bench.text import LONGEST, Sentences, batches, embedding, sentences
from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.cli.common import progress
from pocketformer.compiler.errors import PocketformerError
from pocketformer.compiler.quantization.metrics import Answers, Cosine, Spearman
from pocketformer.compiler.recipe import RECIPES, Int4Weights, Int8, recipe_named

MODEL = "minilm-l6"
REFERENCE = "float32"
OURS = ("bfloat16", "int8", "int8-dynamic", "int4")
PEERS = ("onnxruntime-int8", "openvino-int8")
TRAINING, HELD_OUT = 1000, 2000
STEPS, DECAY = 100, 1e-3      # of the classifier's training
SEED = 0

Run = Callable[[Arrays], np.ndarray]     # the hidden states [1, length, size] of a batch of one
Head = Callable[[np.ndarray], np.ndarray]    # which embeddings [count, size] are positive


@dataclass(frozen=True)
class Row:
    """An engine's answers beside those of our float32: cosines and Spearman's correlation of the
    held-out sentences, and the classifier's accuracy on them.

    `weight_bytes` and `seconds` are those of compiling, calibration included; None for others.
    """

    name: str
    cosine: float
    least_cosine: float
    spearman: float
    accuracy: float
    weight_bytes: int | None = None
    seconds: float | None = None


def main() -> None:
    wanted = arguments()
    model = read_models()[MODEL]
    in_float32 = reference(model, TRAINING, wanted.held_out)
    rows = [in_float32.row]
    rows += [measured(model, name, in_float32, COUNT) for name in wanted.recipes]
    for name in wanted.peers:
        try:
            found = embed(model, peer(model, name), in_float32.held_out, name)
        except (ImportError, PocketformerError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rows.append(in_float32.compared(name, found))
    whole = (wanted.recipes, wanted.peers, wanted.held_out) == ([*OURS], [*PEERS], HELD_OUT)
    write(rows, (HERE if whole else WORK) / "results", wanted.held_out)
    print(json.dumps([asdict(row) for row in rows], indent=1) if wanted.json else table(rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sentiment", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES], default=[*OURS],
                        help="beside float32")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[*PEERS])
    parser.add_argument("--held-out", type=int, default=HELD_OUT, metavar="N",
                        help="sentences to measure on")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


@dataclass(frozen=True, eq=False)
class Reference:
    """float32's embeddings of `held_out`, and a classifier that was trained on others of its."""

    held_out: Sentences
    embeddings: np.ndarray
    head: Head
    made: Mapping[str, Any]

    @property
    def row(self) -> Row:
        return self.compared(REFERENCE, self.embeddings, **self.made)

    def compared(self, name: str, found: np.ndarray, **made: Any) -> Row:
        """The embeddings `found` by `name` beside these."""
        answers = Answers(
            self.embeddings[:, None], found[:, None], np.ones((len(found), 1), bool))
        cosine, spearman = Cosine(), Spearman(len(found))
        cosine.update(answers)
        spearman.update(answers)
        accuracy = float((self.head(found) == self.held_out.positive).mean())
        least = float((found * self.embeddings).sum(1).min())
        return Row(name, cosine.value(), least, spearman.value(), accuracy, **made)


def reference(model: BenchModel, training: int, held_out: int) -> Reference:
    """What all else is compared with, on so many sentences."""
    run, made = ours(model, REFERENCE, 0)
    learned, kept = sentences("training").first(training), sentences("held out").first(held_out)
    head = train(embed(model, run, learned, REFERENCE), learned.positive)
    return Reference(kept, embed(model, run, kept, REFERENCE), head, made)


def measured(model: BenchModel, name: str, in_float32: Reference, calibration: int) -> Row:
    """Our recipe `name`, calibrated on so many sentences where it is."""
    run, made = ours(model, name, calibration)
    return in_float32.compared(name, embed(model, run, in_float32.held_out, name), **made)


def ours(model: BenchModel, name: str, calibration: int) -> tuple[Run, dict[str, Any]]:
    """Our bundle by the recipe `name`, for sentences of any length, and what making it took."""
    recipe = recipe_named(name)
    if isinstance(recipe, Int4Weights | Int8) and name != "int8-dynamic":
        texts = sentences("calibration").first(calibration).texts
        recipe = replace(recipe, calibration=list(batches(model, texts)))
    start = time.perf_counter()
    with progress(name) as step:
        bundle = pf.compile(
            onnx_files.plain(model), dims={"batch": 1, "seq": f"1..{LONGEST}"}, recipe=recipe,
            progress=step)
    seconds = time.perf_counter() - start
    session, weights = pf.Session(bundle), bundle.manifest.weights

    def run(batch: Arrays) -> np.ndarray:
        return session.run(batch)[model.output]

    return run, {"weight_bytes": weights.bytes if weights else None, "seconds": seconds}


def peer(model: BenchModel, name: str) -> Run:
    """Another engine, on the file that it is timed with."""
    if name == "onnxruntime-int8":
        session = onnx_files.one_thread(str(onnx_files.dynamic_int8(model)))
        names = [each.name for each in session.get_inputs()]
        return lambda batch: np.asarray(
            session.run([model.output], {name: batch[name] for name in names})[0])
    (engine,) = nncf.PEERS
    engine.check()
    folder = engine.file(model, {"batch": 1, "seq": LONGEST})
    library = core()
    compiled = library.compile_model(library.read_model(folder / nncf.FILE), "CPU")
    return lambda batch: np.asarray(compiled(batch)[0])


def embed(model: BenchModel, run: Run, given: Sentences, name: str) -> np.ndarray:
    """The embeddings of sentences, [count, size]."""
    found = []
    with progress(f"{name}: embedding") as step:
        for number, batch in enumerate(batches(model, given.texts)):
            found.append(embedding(run(batch), batch["attention_mask"])[0])
            step(f"{name}: embedding", number / len(given))
    return np.stack(found)


def train(embeddings: np.ndarray, positive: np.ndarray) -> Head:
    """Logistic regression on the embeddings; returns a function that tells what is positive."""
    import torch

    torch.manual_seed(SEED)
    head = torch.nn.Linear(embeddings.shape[1], 1)
    x, y = torch.from_numpy(embeddings), torch.from_numpy(positive.astype(np.float32))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=STEPS)

    def loss() -> Any:
        optimizer.zero_grad()
        error = torch.nn.functional.binary_cross_entropy_with_logits(head(x)[:, 0], y)
        total = error + DECAY * head.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    weight, bias = head.weight.detach().numpy()[0], head.bias.item()
    return lambda each: each @ weight + bias > 0


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    whole = next((row.weight_bytes for row in rows if row.name == REFERENCE), None)
    lines = [
        "| | cosine | least | Spearman | accuracy | weights | of float32's | compiled in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = ratio = taken = ""
        if row.weight_bytes is not None:
            size = f"{row.weight_bytes / 1e6:.1f} MB"
            ratio = f"{row.weight_bytes / whole:.3f}" if whole else ""
        if row.seconds is not None:
            taken = f"{row.seconds:.1f} s"
        lines.append(
            f"| {row.name} | {row.cosine:.5f} | {row.least_cosine:.4f} | {row.spearman:.4f} | "
            f"{row.accuracy:.2%} | {size} | {ratio} | {taken} |")
    return "\n".join(lines)


def write(rows: Sequence[Row], folder: Path, held_out: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine.describe(), "calibration": COUNT, "training": TRAINING,
              "held_out": held_out, "rows": [asdict(row) for row in rows]}
    (folder / "sentiment.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "sentiment.md").write_text(
        f"## all-MiniLM-L6-v2 on {held_out} held-out movie reviews\n\n{table(rows)}\n\n"
        f"Beside our float32; calibrated on {COUNT} other sentences. The classifier was trained on "
        f"float32's embeddings of {TRAINING} more.\n")


if __name__ == "__main__":
    main()
