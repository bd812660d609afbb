"""Time the models of models.toml in all engines: in turns, each in a process of its own.

A finished case is kept; the same command goes on where it was interrupted. The figures go to
bench/results, those of part of the cases or of --quick to build/bench/results.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.baselines import (
    iree,
    litert,
    mnn,
    ncnn,
    nncf,
    onnxruntime,
    openvino,
    pocketformer,
)
from bench.baselines.peer import Peer, forget_refusals
from bench.cases import FULL, QUICK, Case, Effort, measure, prepare
from bench.models import HERE, WORK, BenchModel, read_models
from bench.report import write_results
from pocketformer.compiler.cli.common import INTERRUPTED, progress

BATCHES, LENGTHS, THREADS = (1, 8), (16, 64, 128, 512), (1, 2)
MODULES = (pocketformer, onnxruntime, openvino, nncf, iree, mnn, ncnn, litert)
PEERS: dict[str, Peer] = {peer.name: peer for module in MODULES for peer in module.PEERS}


def main() -> None:
    models = read_models()
    wanted = arguments(models)
    peers = [PEERS[name] for name in wanted.engines]
    effort = QUICK if wanted.quick else FULL
    chosen = [models[name] for name in wanted.models]
    cases = [*cases_of(chosen, wanted.batches, wanted.lengths, wanted.threads)]
    todo = [case for case in cases
            if wanted.again or not case.finished(peers, effort, wanted.any_version)]
    for case in cases if wanted.again else ():
        forget_refusals(models[case.model], case.sizes)
    print(f"{len(cases)} cases, {len(cases) - len(todo)} of them finished before", file=sys.stderr)
    try:
        if wanted.prepare:
            convert(todo, models, peers)
        else:
            run(todo, models, peers, effort, wanted.keep_files)
    except KeyboardInterrupt:
        print("Interrupted; what is finished is kept, and the same command goes on.",
              file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        if not wanted.prepare:
            everything = wanted.all and not wanted.quick
            output = wanted.output or (HERE if everything else WORK) / "results"
            print(write_results(cases, output), flush=True)


def arguments(models: Mapping[str, BenchModel]) -> argparse.Namespace:
    """What is asked for; `all` tells whether it is every case and every engine."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(models)}; all")
    parser.add_argument("--engines", nargs="+", choices=[*PEERS], default=[*PEERS],
                        metavar="ENGINE", help=f"of {', '.join(PEERS)}; all")
    parser.add_argument("--batches", nargs="+", type=int, default=[*BATCHES], metavar="N")
    parser.add_argument("--lengths", nargs="+", type=int, default=[*LENGTHS], metavar="N",
                        help="of models that read text, up to 512")
    parser.add_argument("--threads", nargs="+", type=int, default=[*THREADS], metavar="N")
    parser.add_argument("--quick", action="store_true",
                        help="seconds a case, for a first look")
    parser.add_argument("--prepare", action="store_true",
                        help="only export and convert for the other engines, some GB a model; "
                             "unlike timing, this may run beside other work")
    parser.add_argument("--again", action="store_true",
                        help="measure finished cases, too, and ask converters that refused")
    parser.add_argument("--any-version", action="store_true",
                        help="keep finished cases of other versions of an engine or of ours")
    parser.add_argument("--keep-files", action="store_true",
                        help="keep what was converted for single sizes: some GB a model")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for tables and plots")
    wanted = parser.parse_args()
    if unknown := [name for name in wanted.models if name not in models]:
        parser.error(f"no model {unknown[0]!r}; there are {', '.join(models)}")
    numbers = [*wanted.batches, *wanted.lengths, *wanted.threads]
    if min(numbers) < 1 or max(wanted.lengths) > LENGTHS[-1]:
        parser.error(f"batches, lengths and threads begin at 1, and lengths end at {LENGTHS[-1]}")
    wanted.all = not wanted.models and all(
        {*everything} <= {*some} for everything, some in (
            (PEERS, wanted.engines), (BATCHES, wanted.batches), (LENGTHS, wanted.lengths),
            (THREADS, wanted.threads)))
    wanted.models = wanted.models or [*models]
    return wanted


def cases_of(
    models: Sequence[BenchModel], batches: Sequence[int], lengths: Sequence[int],
    threads: Sequence[int],
) -> Iterator[Case]:
    """The cases in the order in which they are measured: all of one size in a row."""
    for model, batch in itertools.product(models, batches):
        sizes = [{"batch": batch, "seq": seq} for seq in lengths] if model.has_length \
            else [{"batch": batch}]
        for size, count in itertools.product(sizes, threads):
            yield Case(model.name, size, count)


def convert(
    cases: Sequence[Case], models: Mapping[str, BenchModel], peers: Sequence[Peer]
) -> None:
    """Make the files that other engines load; timing finds them there, or what was refused."""
    sizes = {(case.model, *case.sizes.items()): case for case in cases}
    for number, case in enumerate(sizes.values()):
        with progress(str(case)) as step:
            refused = prepare(case, models[case.model], peers, step)
        print(f"{number + 1}/{len(sizes)} {case.model}, {dict(case.sizes)}: "
              f"{', '.join(refused) or 'none'} refused", file=sys.stderr, flush=True)


def run(
    cases: Sequence[Case], models: Mapping[str, BenchModel], peers: Sequence[Peer],
    effort: Effort, keep_files: bool,
) -> None:
    """Measure `cases` and tell how long the others will take; files of one size go with it."""
    start = time.monotonic()
    for number, (case, following) in enumerate(zip(cases, [*cases[1:], None], strict=True)):
        model = models[case.model]
        with progress(str(case)) as step:
            record = measure(case, model, peers, effort, step)
        taken = time.monotonic() - start
        left = taken / (number + 1) * (len(cases) - number - 1)
        print(f"{number + 1}/{len(cases)} {case}: {record['seconds']:.0f} s, "
              f"about {left / 60:.0f} min left", file=sys.stderr, flush=True)
        same = following and (following.model, following.sizes) == (case.model, case.sizes)
        if not same and not keep_files:
            shutil.rmtree(model.sized(case.sizes))


if __name__ == "__main__":
    main()
