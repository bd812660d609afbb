"""Compiles a model for this machine in one precision after another; measures what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.assemble import Fused, Wishes, assemble
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.progress import Progress, part_of
from pocketformer.compiler.quantization.answers import outputs_of
from pocketformer.compiler.quantization.effects import effects
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.numbers import Numbers, Quantization
from pocketformer.compiler.quantization.switches import both, switched
from pocketformer.compiler.recipe import Float32, Recipe
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.given import records_of
from pocketformer.targets import Target

TIMED_MS, MOST_RUNS, FEWEST_RUNS = 1000.0, 20, 3    # of each choice, on the first batch


@dataclass(frozen=True)
class Judged:
    """A metric's value and drop, the weights' bytes, the milliseconds of a run on one batch; and
    the bundle that was measured."""

    value: float
    drop: float
    bytes: int
    ms: float
    bundle: Bundle


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
        recipe = self._recipe if quantization.layers else Float32()
        bundle = self._built(recipe, quantization, part_of(tell, 0.0, 0.5))
        with Session(bundle) as session:
            found = self._evaluation.measure(session.run, part_of(tell, 0.5, 1.0))
            return Judged(found.value, found.drop, _bytes(bundle), self._time(session), bundle)

    def effects(
        self,
        few: Mapping[str, Numbers],
        kept: Mapping[str, Numbers],
        keys: Sequence[str],
        tell: Progress,
    ) -> dict[str, float]:
        """The noise of the answers, by key, when that layer alone computes with `few`.

        All other layers of `keys` compute with `kept`, in float32 what that lacks, and layers that
        are not among `keys` with `few`. See `effects.effects`.
        """
        fused = switched(self._fused, keys)
        quantization = both(few, kept, keys)
        bundle = self._built(self._recipe, quantization, part_of(tell, 0.0, 0.5), fused)
        switches = fused.model.inputs[-1].name
        accuracy = self._evaluation.accuracy
        with Session(bundle) as session:
            found = effects(
                lambda batch, on: session.run({**batch, switches: on}),
                self._evaluation.batches,
                len(keys),
                outputs_of(accuracy, self._fused.model),
                accuracy.mask,
                part_of(tell, 0.5, 1.0),
            )
        return dict(zip(keys, found, strict=True))

    def _built(
        self, recipe: Recipe, quantization: Quantization, tell: Progress, fused: Fused | None = None
    ) -> Bundle:
        wishes = Wishes(self._records, tell=tell)
        return assemble(fused or self._fused, self._host, recipe, quantization, wishes)

    def _time(self, session: Session) -> float:
        """Milliseconds of a run on the first batch, the fastest: others may use the machine."""
        batch: Arrays = next(iter(self._evaluation.batches))
        (first,) = session.time(batch, warmup=1, runs=1)
        runs = min(max(int(TIMED_MS / max(first, 1e-3)), FEWEST_RUNS), MOST_RUNS)
        return min(session.time(batch, warmup=1, runs=runs))


def _bytes(bundle: Bundle) -> int:
    return sum(array.nbytes for array in bundle.weights.values())
