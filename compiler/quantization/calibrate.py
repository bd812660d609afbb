"""Calibration: what the tensors hold that a model's layers read, on real inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tvm.ir import IRModule

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.assemble import Fused, Wishes, assemble, fuse
from pocketformer.compiler.errors import BadCalibration, BadInput
from pocketformer.compiler.explain import Explanation
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.model import Model
from pocketformer.compiler.progress import Progress, part_of
from pocketformer.compiler.quantization.data import batches_of, count_of
from pocketformer.compiler.quantization.decide import needs_second
from pocketformer.compiler.quantization.layers import LINEAR, Layer
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.quantization.overrides import recipes_of
from pocketformer.compiler.quantization.padding import check_mask, mask_of
from pocketformer.compiler.quantization.smooth import equalizable
from pocketformer.compiler.quantization.statistics import Statistics, TensorStatistics, block_of
from pocketformer.compiler.quantization.taps import Found, Tap, find_layers, tapped
from pocketformer.compiler.recipe import Float32, Int8, Recipe
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.records import Records
from pocketformer.targets import HOST, load

LOG = logging.getLogger("pocketformer.calibration")     # what a user should know of the data
COMPILED = 0.4      # of the time of a calibration goes by before the first batch
GUESS = 32          # batches, where data does not tell how many


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A model's layers, and what they read; no statistics where the recipe has no data."""

    layers: tuple[Layer, ...]
    statistics: Statistics


def calibrate(module: IRModule, model: Model, recipe: Recipe, tell: Progress) -> Calibrated:
    """Runs the float32 model on the recipe's `calibration` batches, on this machine.

    `module` is what `pipeline.graph` makes of `model`. Where dimensions of it were fixed, batches
    run on the model as it was before, so that sentences keep their own lengths. Memory does not
    depend on the number of batches, and that for second moments has a limit (`block_of`). A model
    without layers is warned of, and runs nothing. Raises BadInput for data that does not fit the
    model, BadCalibration for a batch that is nothing but padding, BadRecipe for an override that
    matches no layer.
    """
    found = find_layers(module, model.weights)
    recipe_of = recipes_of(found.layers, recipe)    # a misspelt override is told before the work
    if not found.layers:
        LOG.warning(
            f"the recipe {recipe.name} finds no layer to quantise: the model has no linear layer, "
            f"attention or lookup whose numbers are float32"
        )
    data = getattr(recipe, "calibration", None)
    if data is None or not found.layers:
        return Calibrated(found.layers, {})
    _remark_equalizing(found.layers, recipe_of)
    second = {layer.x for layer in found.layers if needs_second(layer, recipe_of(layer))}
    run = _Run.of(found, module, model)
    block = block_of(tap.channels for tap in found.taps if tap.key in second)
    statistics = {
        tap.key: TensorStatistics(tap.channels, block if tap.key in second else 0)
        for tap in found.taps
    }
    count = 0
    batches = _first_checked(_within(batches_of(data, run.model), found, run.model))
    total = count_of(data)
    with run.session(part_of(tell, 0.0, COMPILED)) as session:
        for count, batch in enumerate(batches, 1):
            done = count / total if total else count / (count + GUESS)
            check_mask(batch, count, BadCalibration)
            tell(f"calibrate on batch {count}", COMPILED + (1 - COMPILED) * min(done, 1.0))
            run.update(statistics, session, batch)
    if count == 1:
        LOG.warning(
            "calibration has a single batch: what the model reads in use may lie outside the "
            "ranges that it shows; give a few dozen"
        )
    return Calibrated(found.layers, statistics)


def _remark_equalizing(layers: Sequence[Layer], recipe_of: Callable[[Layer], Recipe]) -> None:
    """Warns where a recipe asks for equal ranges and no two layers can have them."""
    by_key = {layer.key: layer for layer in layers if layer.kind == LINEAR}
    found = [
        equalizable(layer, by_key.get(layer.before)) and not recipe.by_token
        for layer in by_key.values()
        if isinstance(recipe := recipe_of(layer), Int8) and recipe.equalize
    ]
    if found and not any(found):
        LOG.warning(
            "equalize changes nothing: no linear layer in int8, with a range for the whole tensor, "
            "reads what another one computes with at most a relu between"
        )


@dataclass(frozen=True)
class _Run:
    """The model that batches run on, and its tensors in the order of the keys of `taps`."""

    model: Model
    module: IRModule
    taps: Sequence[Tap]
    keys: Sequence[str]

    @classmethod
    def of(cls, found: Found, module: IRModule, model: Model) -> _Run:
        if model.unfixed is not None:
            whole = fuse(model.unfixed, load(HOST))
            if taps := _same_taps(found, find_layers(whole.module, model.weights)):
                return cls(model.unfixed, whole.module, taps, [tap.key for tap in found.taps])
        return cls(model, module, found.taps, [tap.key for tap in found.taps])

    def session(self, tell: Progress) -> Session:
        """The model compiled for this machine, with what is tapped as its outputs."""
        module, model = tapped(self.module, self.model, self.taps)
        fused = Fused(model, module, {"main": {}}, Explanation())

        def told(_: str, fraction: float) -> None:
            tell("compile for calibration", fraction)

        wishes = Wishes(Records(), tell=told)
        bundle = assemble(fused, load(HOST), Float32(), Quantization(), wishes)
        return Session(bundle, threads=len(cpus()))

    def update(
        self, statistics: dict[str, TensorStatistics], session: Session, batch: Arrays
    ) -> None:
        mask = mask_of(batch)
        tensors = session.run(batch)
        for place, (tap, key) in enumerate(zip(self.taps, self.keys, strict=True)):
            rows = tap.rows(tensors[str(place)])
            if mask is not None and mask.size == len(rows):
                rows = rows[mask.reshape(-1)]
            statistics[key].update(rows)


def _same_taps(found: Found, other: Found) -> list[Tap] | None:
    """The taps of `other` that give what those of `found` do, known by their layers.

    None where a layer of `found` is not in `other`.
    """
    by_name = {(layer.kind, layer.name): layer for layer in other.layers}
    taps = {tap.key: tap for tap in other.taps}
    same: dict[str, Tap] = {}
    for layer in found.layers:
        if not (reads := [layer.x] if layer.x else layer.reads):
            continue
        twin = by_name.get((layer.kind, layer.name))
        if twin is None:
            return None
        for key, own in zip(reads, [twin.x] if twin.x else twin.reads, strict=True):
            same[key] = taps[own]
    return [same[tap.key] for tap in found.taps]


def _within(batches: Iterator[Arrays], found: Found, model: Model) -> Iterator[Arrays]:
    """`batches`, whose numbers of rows have to lie in the tables that they are looked up in."""
    for number, batch in enumerate(batches, 1):
        for place, layer in found.ids:
            assert layer.weight is not None
            name, count = model.inputs[place].name, len(layer.weight)
            outside = batch[name][(batch[name] < -count) | (batch[name] >= count)]
            if outside.size:
                raise BadInput(
                    f"batch {number} of the data: {name} has {outside[0]}, but the table of "
                    f"{layer.name} has {count} rows")
        yield batch


def _first_checked(batches: Iterator[Arrays]) -> Iterable[Arrays]:
    """`batches`, the first of which is read now: what is wrong with it is told before the work."""
    first = next(batches)

    def all_of_them() -> Iterator[Arrays]:
        yield first
        yield from batches

    return all_of_them()
