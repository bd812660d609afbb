"""Compiles a model for this machine in one precision after another; measures what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.assemble import Fused, Wishes, assemble
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.progress import Progress, part_of
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.recipe import Float32, Recipe
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.given import records_of
from pocketformer.targets import Target

TIMED_MS, MOST_RUNS, FEWEST_RUNS = 1000.0, 20, 3    # of each choice, on the first batch


@dataclass(frozen=True)
class Judged:
    """A metric's value and drop, the weights' bytes, the milliseconds of a run on one batch."""

    value: float
    drop: float
    bytes: int
    ms: float


class Judge:
    """Judges what `recipe` makes of `fused` by `evaluation`, on this machine, which is `host`."""

    def __init__(
        self, fused: Fused, recipe: Recipe, evaluation: Evaluation, host: Target
    ) -> None:
        self._fused, self._recipe, self._evaluation, self._host = fused, recipe, evaluation, host
        self._records = records_of(None, host.variants)
        self.accuracy = evaluation.accuracy
        self.model, self.device = fused.model.name, host.description
        self.batches = len(evaluation.batches)
        self.float32_bytes, self.float32_ms, self.threads = 0, 0.0, 0

    @property
    def baseline(self) -> float:
        return self._evaluation.baseline

    def answer(self, tell: Progress) -> None:
        """What float32 answers: all that comes after is held to it."""
        bundle = self._built(Float32(), Quantization(), part_of(tell, 0.0, 0.5))
        with Session(bundle) as session:
            self._evaluation.answer(session.run, part_of(tell, 0.5, 1.0))
            self.float32_bytes, self.float32_ms = _bytes(bundle), self._time(session)
            self.threads = session.threads

    def judge(self, quantization: Quantization, tell: Progress) -> Judged:
        """What the model answers where its layers compute with `quantization`."""
        bundle = self._built(self._recipe, quantization, part_of(tell, 0.0, 0.5))
        with Session(bundle) as session:
            found = self._evaluation.measure(session.run, part_of(tell, 0.5, 1.0))
            return Judged(found.value, found.drop, _bytes(bundle), self._time(session))

    def _built(self, recipe: Recipe, quantization: Quantization, tell: Progress) -> Bundle:
        return assemble(
            self._fused, self._host, recipe, quantization, Wishes(self._records, tell=tell)
        )

    def _time(self, session: Session) -> float:
        """Milliseconds of a run on the first batch, the fastest: others may use the machine."""
        batch: Arrays = next(iter(self._evaluation.batches))
        (first,) = session.time(batch, warmup=1, runs=1)
        runs = min(max(int(TIMED_MS / max(first, 1e-3)), FEWEST_RUNS), MOST_RUNS)
        return min(session.time(batch, warmup=1, runs=runs))


def _bytes(bundle: Bundle) -> int:
    return sum(array.nbytes for array in bundle.weights.values())
