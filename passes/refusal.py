"""What a pass says when it leaves something alone; `--explain` shows it."""

import logging

from tvm import relax

from pocketformer.passes.graph import sources

LOG = logging.getLogger("pocketformer.passes")


class Refused(Exception):
    """This rewrite does not apply here, for the reason given: carry on."""


def note_refusal(pass_name: str, expr: relax.Expr, reason: Refused) -> None:
    """Log why `pass_name` left the source operators of `expr` alone."""
    operators = sources(expr)
    LOG.info(
        "%s leaves %s alone: %s",
        pass_name,
        operators[-1] if operators else "an operator",
        reason,
        extra={"pass_name": pass_name, "operators": operators, "reason": str(reason)},
    )
