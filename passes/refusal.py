"""What a pass says when it leaves something alone; `--explain` shows it."""

import logging
import re

from tvm import relax

from pocketformer.passes.graph import sources
from pocketformer.schedules.workloads import MOST_PRODUCTS

LOG = logging.getLogger("pocketformer.passes")


class Refused(Exception):
    """This rewrite does not apply here, for the reason given: carry on."""


def pass_name(step: object) -> str:
    """The name of a pass as it is written in refusals: FuseGelu is fuse_gelu."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(step).__name__).lower()


def check_sums(k: object, most: int = MOST_PRODUCTS) -> None:
    """Raise Refused where sums of `k` products of 8-bit integers may be too large for int32."""
    if isinstance(k, int) and k > most:
        raise Refused(f"its sums of {k} products may not fit in int32, which holds {most}")


def note_refusal(name: str, expr: relax.Expr, reason: Refused) -> None:
    """Log why the pass `name` left the source operators of `expr` alone."""
    operators = sources(expr)
    LOG.info(
        "%s leaves %s alone: %s",
        name,
        operators[-1] if operators else "an operator",
        reason,
        extra={"pass_name": name, "operators": operators, "reason": str(reason)},
    )
