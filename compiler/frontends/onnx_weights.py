"""Which constants of the source become parameters of the model, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from tvm import relax


class Weights:
    """Knows constants by identity: an array that is used twice is one parameter."""

    def __init__(self) -> None:
        self.uses: Counter[str] = Counter()    # how many nodes of the source use a name
        self._names: dict[int, tuple[np.ndarray, str]] = {}
        self._vars: dict[int, tuple[np.ndarray, relax.Var]] = {}
        self._taken: set[str] = set()

    @property
    def vars(self) -> list[relax.Var]:
        """The parameters so far."""
        return [var for _, var in self._vars.values()]

    def arrays(self, kept: Iterable[relax.Var]) -> dict[str, np.ndarray]:
        """The arrays of some parameters by name, in their order."""
        by_name = {var.name: array for array, var in self._vars.values()}
        return {var.name: by_name[var.name] for var in kept}

    def reserve(self, name: str) -> None:
        """Keep an input's name from being given to a weight."""
        self._taken.add(name)

    def name(self, array: np.ndarray, name: str) -> None:
        """What `array` is to be called if it becomes a parameter; its first name stays."""
        self._names.setdefault(id(array), (array, name))

    def name_after(self, array: np.ndarray, original: np.ndarray) -> np.ndarray:
        """`array`, another form of `original`, under that one's name."""
        if id(original) in self._names:
            self.name(array, self._names[id(original)][1])
        return array

    def is_shared(self, array: np.ndarray) -> bool:
        """Whether several nodes use it, so that a changed copy would be stored besides."""
        return id(array) in self._names and self.uses[self._names[id(array)][1]] > 1

    def var(self, array: np.ndarray, default_name: str) -> relax.Var:
        """The parameter that `array` is."""
        if id(array) not in self._vars:
            name = self._unused(self._names.get(id(array), (array, default_name))[1])
            ty = relax.TensorType(array.shape, str(array.dtype))
            self._vars[id(array)] = (array, relax.Var(name, ty))
        return self._vars[id(array)][1]

    def _unused(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._taken:
            count += 1
            unique = f"{name}_{count}"
        self._taken.add(unique)
        return unique
