"""What sizes and choices of a workload may be, and how its text names them."""

from __future__ import annotations

from collections.abc import Sequence

from pocketformer.compiler.errors import BadWorkload

MOST = (1 << 31) - 1     # of a size: the product of two of them is an index of 64 bits
# Products of 8-bit integers whose sum int32 holds: |x - zero| is at most 255, |weight| 128.
MOST_PRODUCTS = MOST // (255 * 128)
MOST_BYTES = MOST // (255 * 255)    # where |weight - zero| is as much
ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "quick_gelu")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadWorkload(otherwise)


def check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        require(size is None or 1 <= size <= MOST, f"{name} is {size}, not 1 to {MOST}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    require(value in choices, f"{name} is {value!r}, not one of {choices!r}")


def text(size: int | None) -> str:
    return "any" if size is None else str(size)


def stored(dtype: str) -> list[str]:
    """What a workload's text says of the dtype of its result."""
    return [f"to_{dtype}"] * (dtype != "float32")
