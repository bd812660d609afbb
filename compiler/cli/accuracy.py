"""The options of an accuracy check."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketformer.compiler.errors import BadInput, BadMetric

if TYPE_CHECKING:
    from pocketformer.compiler.quantization.accuracy import Accuracy

PANEL = "Accuracy"

Evaluate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER",
        help="Real inputs to hold the answers against float32's: an .npz file, a folder of them, "
        "or a .txt file with a text a line. Others than those of --calibrate.",
        rich_help_panel=PANEL,
    ),
]
Accept = Annotated[
    float | None,
    typer.Option(
        metavar="DROP",
        help="How much of the metric may be lost, such as 0.01: as few layers as possible stay in "
        "higher precision for it. Without it every loss is accepted.",
        rich_help_panel=PANEL,
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="cosine, top1, top5, spearman (of pairwise similarities) or sqnr.",
        show_default="cosine", rich_help_panel=PANEL,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npy",
        help="The right classes, for top1 and top5: else float32's answers are right.",
        rich_help_panel=PANEL,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The output to look at.",
        show_default="the first", rich_help_panel=PANEL,
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        help="How many choices of layers to keep are compiled and measured at most.",
        show_default="40", rich_help_panel=PANEL,
    ),
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE",
        help="Write a page with pictures of what --evaluate measured to this file.",
        rich_help_panel=PANEL,
    ),
]


def accuracy_from(
    evaluate: Path | None,
    accept: float | None,
    metric: str | None,
    labels: Path | None,
    output: str | None,
    html: Path | None,
    trials: int | None = None,
) -> Accuracy | None:
    """The check that these options ask for, None for none.

    Raises BadInput for a file that is not there and BadMetric for what does not fit together.
    """
    from pocketformer.compiler.quantization.accuracy import Accuracy

    if evaluate is None:
        given = {
            "--accept": accept, "--metric": metric, "--labels": labels,
            "--compare-output": output, "--html": html,
            "--trials": trials,
        }
        for flag, value in given.items():
            if value is not None:
                raise BadMetric(f"{flag} needs --evaluate, real inputs to measure answers on")
        return None
    for file in (evaluate, labels):
        if file is not None and not file.exists():
            raise BadInput(f"there is no file or folder {file}")
    accuracy = Accuracy(
        math.inf if accept is None else accept, metric or "cosine", evaluate, labels, output
    )
    return accuracy if trials is None else replace(accuracy, trials=trials)


def overlap(calibrate: Path | None, evaluate: Path | None) -> bool:
    """Whether the batches of both are of the same file, or one's file lies in the other's folder.
    """
    if calibrate is None or evaluate is None:
        return False
    one, other = calibrate.resolve(), evaluate.resolve()
    return one == other or one in other.parents or other in one.parents
