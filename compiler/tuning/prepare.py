"""What is known before a search begins: the model's tasks, and what they take on the device now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.assemble import Wishes, assemble, fuse
from pocketformer.compiler.build import quantize, read_model
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.connection import Connection, connect
from pocketformer.compiler.device.token import find_token
from pocketformer.compiler.errors import BadModel, DeviceRefused
from pocketformer.compiler.machine import memory_bytes, this_machine
from pocketformer.compiler.model import Dim, Model
from pocketformer.compiler.pipeline import FLOAT
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.recipe import Recipe, check_recipe, chosen_recipe
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.functions import Rest, rest_of
from pocketformer.compiler.tuning.given import records_of
from pocketformer.compiler.tuning.in_model import InModel, profiled, sizes_of
from pocketformer.compiler.tuning.job import Job, cold_bytes
from pocketformer.compiler.tuning.options import Options
from pocketformer.compiler.tuning.points import default_of
from pocketformer.compiler.tuning.record import Record
from pocketformer.compiler.tuning.recording import Setting
from pocketformer.compiler.tuning.records import Records, core_of
from pocketformer.compiler.tuning.tasks import Task, tasks_of
from pocketformer.schedules.workloads import Function
from pocketformer.targets import HOST, Target
from pocketformer.targets import load as load_target
from pocketformer.targets.kin import core_named
from pocketformer.targets.target import BASE

if TYPE_CHECKING:
    from pocketformer.compiler.device.info import DeviceInfo

UNTUNED = "compiling the untuned model"


@dataclass(frozen=True)
class Source:
    """A model and how to compile it; `quantization` is what the recipe decided for its layers."""

    model: Model
    target: Target
    recipe: Recipe
    quantization: Quantization = FLOAT

    @classmethod
    def load(
        cls,
        model: Any,
        target: str | Target,
        recipe: Recipe | str | None,
        dims: Mapping[str, str | int | Dim] | None,
        **how: Any,
    ) -> Source:
        """As `compile` reads them, with its errors; `how` is what `load` takes as well."""
        chosen = target if isinstance(target, Target) else load_target(target)
        recipe = chosen_recipe(recipe)
        check_recipe(recipe, chosen)
        read = read_model(model, recipe, dims, **how)
        return cls(read, chosen, recipe, quantize(fuse(read, chosen), recipe))


@dataclass(frozen=True)
class Prepared:
    """`target` is of the level that the device runs; `default` the untuned bundle for it.

    `sizes` are those at which each entry runs.
    """

    source: Source
    target: Target
    default: Bundle
    sizes: tuple[Mapping[str, int], ...]
    in_model: InModel
    setting: Setting
    tasks: tuple[Task, ...]
    rest: Rest

    def compile(self, records: Records, tell: Progress) -> Bundle:
        """The model's bundle with what `records` say."""
        return _compiled(self.source, self.target, records, "compiling the tuned model", tell)

    def share(self, task: Task) -> float:
        """What part of the time of all kernels the untuned kernel of `task` takes."""
        if isinstance(task.workload, Function):
            return self.rest.taken(task.workload, self.in_model.rest_us) / self.in_model.total_us
        alike = [each for each in self.tasks if str(each.workload) == str(task.workload)]
        taken = self.in_model.kernels_us.get(str(task.workload), 0.0)
        return taken / self.in_model.total_us * task.calls / sum(each.calls for each in alike)

    def job(self, task: Task, points: Sequence[Any]) -> Job:
        """A job for `points`, the first of which is the default."""
        threads, taken = self.setting.threads, self.share(task) * self.in_model.total_us
        cold = cold_bytes(self.target, self.weight_bytes, threads)
        call_us = taken / task.calls
        return Job(self.target, task.workload, task.sizes, tuple(points), cold, call_us)

    def known(self, task: Task, records: Iterable[Record]) -> list[Record]:
        """What `records` say of trials of `task` as this tuning would make them."""
        return self.setting.known(task, records, default_of(task.workload, self.target))

    def require_alike(self, info: DeviceInfo) -> None:
        """Raise DeviceRefused where a device is not of the kind that was profiled."""
        core, setting = _core(self.source, info), self.setting
        if core != setting.core:
            raise DeviceRefused(f"{info.name} has {core} cores, {setting.device} {setting.core}")
        if info.emulated != setting.emulated:
            one, other = ("an emulator", "none") if info.emulated else ("no emulator", "one")
            raise DeviceRefused(f"{info.name} is {one}, {setting.device} is {other}")

    @property
    def weight_bytes(self) -> int:
        weights = self.default.manifest.weights
        return weights.bytes if weights else 0


def prepare(source: Source, options: Options, tell: Progress) -> Prepared:
    """Compile `source` untuned, and time its kernels on the device.

    Raises as `compile` and Session do, and BadModel where it has no kernel that can be tuned.
    """
    target = _level(source, options, tell)
    default = _compiled(source, target, (), UNTUNED, tell)
    sizes = sizes_of(default.manifest, options.sizes)
    with opened([default], options, tell) as (session,):
        found = profiled(session, sizes, tell)
    rest = rest_of(source.model, target, source.recipe, source.quantization)
    kernels = tasks_of(
        source.model, target, source.recipe, options.sizes, source.quantization
    )
    tasks = [*kernels, *rest.tasks]
    if not tasks:
        raise BadModel(f"{source.model.name} has no kernel that can be tuned")
    return Prepared(
        source=source,
        target=target,
        default=default,
        sizes=tuple(sizes),
        in_model=found,
        setting=_setting(source, found),
        tasks=tuple(tasks),
        rest=rest,
    )


@contextmanager
def opened(
    bundles: Sequence[Bundle], options: Options, tell: Progress
) -> Iterator[list[Session]]:
    """Sessions of all `bundles` on the same device, this machine or one behind the address."""
    with ExitStack() as stack:
        place: Connection | None = None
        if not options.here:
            token = find_token(options.token)
            where = Address.parse(options.device)
            place = stack.enter_context(connect(where, token, options.timeout, tell))
        yield [
            stack.enter_context(Session(bundle, options.threads, device=place))
            for bundle in bundles
        ]


def _compiled(
    source: Source, target: Target, records: Records | tuple[()], step: str, tell: Progress
) -> Bundle:
    def told(_: str, fraction: float) -> None:
        tell(step, fraction)

    wishes = Wishes(records_of(records, target.variants), remark=True, tell=told)
    fused = fuse(source.model, target)
    return assemble(fused, target, source.recipe, source.quantization, wishes)


def _level(source: Source, options: Options, tell: Progress) -> Target:
    """The target of the level that the device runs, without the others."""
    if not source.target.levels:
        return source.target
    bundle = _compiled(source, source.target, (), UNTUNED, tell)
    with opened([bundle], options, tell) as (session,):
        level = session.level or BASE       # a bundle whose levels are all the same has none
    return next(each for each in source.target.variants if each.level == level)


def _core(source: Source, info: DeviceInfo | None) -> str:
    """The processor's name in records: the target's where the device does not contradict it."""
    told = [core_named(core.name) for core in info.cores if core.name] if info else []
    arm = [name for name in told if name]
    own = core_of(source.target)
    if not source.target.levels and (own in arm or not arm):
        return own
    if arm:
        return arm[-1]      # Linux counts the little cores first
    if info is None or _is_here(info):
        return core_of(load_target(HOST))
    return info.cores[0].name or own if info.cores else own


def _is_here(info: DeviceInfo) -> bool:
    """Whether a device is this machine itself, behind an address."""
    here = this_machine()
    return (info.arch, info.os, info.memory_bytes) == (here.arch, here.os, memory_bytes())


def _setting(source: Source, found: InModel) -> Setting:
    info = found.info
    return Setting(
        target=source.target.name,
        core=_core(source, info),
        threads=found.threads,
        device=info.name if info else "this machine",
        emulated=bool(info and info.emulated),
    )
