"""Which layers stay in higher precision: a search over what was measured, and a report on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.errors import AccuracyLost
from pocketformer.compiler.progress import Progress, part_of
from pocketformer.compiler.quantization.calibrate import Calibrated
from pocketformer.compiler.quantization.higher import FLOAT, kept_numbers
from pocketformer.compiler.quantization.judge import Judge
from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.metrics import decibels
from pocketformer.compiler.quantization.numbers import CastLayer, Numbers, Quantization
from pocketformer.compiler.quantization.result import AccuracyReport, Choice, LayerReport
from pocketformer.compiler.quantization.search import Search
from pocketformer.compiler.quantization.sensitivity import sensitivities
from pocketformer.compiler.quantization.table import plain_text
from pocketformer.compiler.recipe import Recipe
from pocketformer.passes.precision import precision_of_layer

WORST = -100.0      # decibel; so much noise, or answers that are no numbers, is as bad as any


@dataclass(frozen=True)
class Controlled:
    """What layers compute with, the report on it, and the bundle that was measured, without it."""

    quantization: Quantization
    report: AccuracyReport
    bundle: Bundle


class KeepLayers:
    """Finds the fewest layers to keep in higher precision; `choices` are what was measured."""

    def __init__(
        self,
        recipe: Recipe,
        calibrated: Calibrated,
        quantization: Quantization,
        judge: Judge,
        tell: Progress,
    ) -> None:
        self._recipe, self._calibrated = recipe, calibrated
        self._quantization, self._accuracy = quantization, judge.accuracy
        self._judge, self._tell = judge, tell
        self._places = {layer.key: place for place, layer in enumerate(calibrated.layers)}
        self._noise = sensitivities(calibrated.layers, calibrated.statistics, quantization)
        self._effects: dict[str, float] = {}    # the answers' noise by each layer
        self._choices: list[Choice] = []
        self._best: tuple[int, float, Bundle] | None = None     # layers kept, drop
        self._steps = 0     # of the work, which are told

    def decided(self, higher: tuple[str, ...]) -> Controlled:
        """What to compute with. Raises AccuracyLost."""
        kept, precision = self._search(higher)
        if kept is None:
            report = self._report(self._quantization, None)
            raise AccuracyLost(f"{self._refusal()}\n{plain_text(report)}", report)
        quantization = self._keeping(kept, precision)
        places = tuple(sorted(self._places[key] for key in kept))
        chosen = next(
            place for place, choice in enumerate(self._choices)
            if choice.kept == places and choice.precision == precision
        )
        assert self._best is not None
        return Controlled(quantization, self._report(quantization, chosen), self._best[-1])

    def _search(self, higher: tuple[str, ...]) -> tuple[frozenset[str] | None, str]:
        """The layers to keep and what they compute in, None where no choice was good enough."""
        nothing: frozenset[str] = frozenset()
        drop = self._measure(FLOAT, nothing)
        if drop <= self._accuracy.max_drop:
            return nothing, FLOAT
        for precision in higher:
            self._best = None   # what held in another precision is not what is chosen
            liftable = self._liftable(precision)
            left = self._accuracy.trials - len(self._choices)
            if not liftable or left < 1:
                continue
            search = Search(
                partial(self._measure, precision), self._accuracy.max_drop, left + 1,
                {nothing: drop},
            )
            kept = search.fewest(self._suffering(liftable, precision))
            if kept is not None:
                return kept, precision
        return None, FLOAT

    def _liftable(self, precision: str) -> list[str]:
        """The layers that can be kept in `precision`: what is cast already only in float32."""
        return [
            key for key, numbers in self._quantization.layers.items()
            if precision == FLOAT or not isinstance(numbers, CastLayer)
        ]

    def _suffering(self, keys: list[str], precision: str) -> Mapping[str, float]:
        """How much each layer takes from the answers; where that cannot tell, from its output."""
        if len(keys) > 1:
            kept = self._keeping(frozenset(keys), precision)
            tell = self._telling("which layers cost most")
            found = self._judge.effects(self._quantization.layers, kept.layers, keys, tell)
            self._effects |= found
            if any(0.0 < each < math.inf for each in found.values()):
                return found
        return {key: self._noise[key] for key in keys}

    def _telling(self, what: str) -> Progress:
        """For the next step of the work; nobody knows how many are to come."""
        self._steps += 1
        rest = part_of(self._tell, 1 - 1 / self._steps, 1 - 1 / (1 + self._steps))
        return lambda step, fraction: rest(f"{what}: {step}", fraction)

    def _measure(self, precision: str, kept: frozenset[str]) -> float:
        """The drop where `kept` compute in `precision`."""
        many = f"choice {len(self._choices) + 1}, {len(kept)} of {len(self._noise)} layers kept"
        tell = self._telling(many if kept else f"as {self._recipe.name}")
        judged = self._judge.judge(self._keeping(kept, precision), tell)
        self._choices.append(Choice(
            kept=tuple(sorted(self._places[key] for key in kept)),
            precision=precision,
            value=_finite(judged.value),
            drop=_finite(judged.drop),
            bytes=judged.bytes,
            ms=judged.ms,
        ))
        best = self._best is None or (len(kept), judged.drop) < self._best[:2]
        if best and judged.drop <= self._accuracy.max_drop:
            self._best = len(kept), judged.drop, judged.bundle
        return judged.drop

    def _keeping(self, kept: frozenset[str], precision: str) -> Quantization:
        """What to compute with where `kept` are in `precision`; see `kept_numbers`."""
        layers: dict[str, Numbers] = {}
        for layer in self._calibrated.layers:
            numbers = self._quantization.layers.get(layer.key)
            if layer.key in kept:
                numbers = kept_numbers(layer, numbers, precision)
            if numbers is not None:
                layers[layer.key] = numbers
        return Quantization(layers)

    def _report(self, quantization: Quantization, chosen: int | None) -> AccuracyReport:
        judge, limit = self._judge, self._accuracy.max_drop
        return AccuracyReport(
            model=judge.model,
            recipe=self._recipe.name,
            metric=self._accuracy.metric_name,
            max_drop=_finite(limit),
            baseline=_finite(judge.baseline),
            batches=judge.batches,
            device=judge.device,
            threads=judge.threads,
            float32_bytes=judge.float32_bytes,
            float32_ms=judge.float32_ms,
            layers=tuple(
                self._layer_report(layer, quantization.layers) for layer in self._calibrated.layers
            ),
            choices=tuple(self._choices),
            chosen=chosen,
        )

    def _layer_report(self, layer: Layer, layers: Mapping[str, Numbers]) -> LayerReport:
        noise, effect = self._noise.get(layer.key), self._effects.get(layer.key)
        wanted, found = self._quantization.layers.get(layer.key), layers.get(layer.key)
        return LayerReport(
            name=_shown(layer),
            kind=layer.kind,
            precision=precision_of_layer(found),
            sqnr=_ratio(noise),
            kept=precision_of_layer(wanted) != precision_of_layer(found),
            answers=_ratio(effect),
        )

    def _refusal(self) -> str:
        accuracy, first = self._accuracy, self._choices[0]
        lost = "no numbers" if first.drop is None else f"{first.drop:.3g} of {accuracy.metric_name}"
        sentence = (
            f"the recipe {self._recipe.name} costs {lost}, more than the {accuracy.max_drop:g} "
            f"that may be lost"
        )
        if len(self._choices) == 1:
            return f"{sentence}; these were measured:"
        ways = " or ".join(dict.fromkeys(each.precision for each in self._choices if each.kept))
        return (
            f"{sentence}; none of the {len(self._choices)} choices of layers to keep in {ways} "
            "holds it; these were measured:"
        )


def _shown(layer: Layer) -> str:
    """The layer's name, after the module's whose weights it reads where the source tells that."""
    weights = [name for name in layer.names if name.endswith((".weight", ".bias"))]
    return f"{weights[0].rpartition('.')[0]} ({layer.name})" if weights else layer.name


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ratio(noise: float | None) -> float | None:
    """In decibel, from WORST on; None where there is no noise, or none is known."""
    return max(WORST, decibels(noise)) if noise else None
