"""What there is to quantise in a model: its layers, with their float32 weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LINEAR, ATTENTION, LOOKUP = "linear", "attention", "lookup"


@dataclass(frozen=True, eq=False)
class Layer:
    """A fused operator that can compute in few bits.

    `key` is the name of the variable that it is bound to, the same in every entry function, and
    `kind` one of linear, attention, lookup. `names` are the names of the source's operators, the
    product's first, then of the weights: patterns of overrides match them.

    `x` is the key in Statistics of the tensor that it reads, "" for attention and lookups: layers
    with the same `x` read the same tensor, so they share its factor and zero. `smoothable` says
    that a norm, a linear layer or attention computes x, whose store can take factors by channel,
    and `normed` that a norm does, which can take them for rows with ranges of their own, too.
    `before` is the key of the linear layer that computes x, perhaps in another shape, "" if none.
    `reads` are the keys of the queries, keys and values that attention reads.

    `weight` is float32: [k, n] of a linear layer, [count, size] of a lookup table, None for
    attention; `bias` is [n] or None; `activation` is that after the bias ("none" for none).
    """

    key: str
    kind: str
    names: tuple[str, ...]
    x: str = ""
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    activation: str = "none"
    smoothable: bool = False
    reads: tuple[str, ...] = ()
    normed: bool = False
    before: str = ""

    @property
    def name(self) -> str:
        """What people call it: its first name, or the key where the source gave none."""
        return self.names[0] if self.names else self.key
