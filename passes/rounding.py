"""Numbers in fewer bits, in plain Relax operators: what kernels that round are held to."""

from __future__ import annotations

from tvm import relax

from pocketformer.schedules.cpu.short_stores import TINY

LOW, HIGH, STEPS = -128, 127, 255    # of int8


def rounded(x: relax.Expr, dtype: str) -> relax.Expr:
    """x in float32, rounded to `dtype`."""
    return x if dtype == "float32" else relax.op.astype(relax.op.astype(x, dtype), "float32")


def quantize(
    x: relax.Expr, factor: relax.Expr, zero: relax.Expr, *, dtype: str = "int8"
) -> relax.Expr:
    """clip(round(x * factor) + zero) of `dtype`, ties to even (Jacob et al. 2018).

    x is [..., k], factor float32 and zero int32, each [k] or [1]; returns [..., k].
    """
    steps = relax.op.round(relax.op.multiply(x, factor))
    return _clipped(relax.op.add(steps, relax.op.astype(zero, "float32")), dtype)


def quantize_rows(x: relax.Expr, *factor: relax.Expr) -> relax.Expr:
    """Each row of v = x * factor [k] (none: of x) in int8, by the range of its own.

    With lo = min(v, 0) and hi = max(v, 0) over the last axis, scale = hi / 255 - lo / 255, or 1
    where that is at most TINY, so that 1 / scale is finite; zero = round(-128 - lo / scale); q =
    clip(round(v / scale) + zero). Returns q like x, scale [..., 1] (float32) and zero [..., 1]
    (int32).
    """
    emit = relax.BlockBuilder.current().emit
    value = emit(relax.op.multiply(x, factor[0])) if factor else x
    none, lowest = relax.const(0.0, "float32"), relax.const(float(LOW), "float32")
    low = emit(relax.op.minimum(relax.op.min(value, -1, keepdims=True), none))
    high = relax.op.maximum(relax.op.max(value, -1, keepdims=True), none)
    steps = relax.const(float(STEPS), "float32")
    step = relax.op.subtract(relax.op.divide(high, steps), relax.op.divide(low, steps))
    step = emit(step)
    tiny = relax.op.less_equal(step, relax.const(TINY, "float32"))
    scale = emit(relax.op.where(tiny, relax.const(1.0, "float32"), step))
    zero = relax.op.round(relax.op.subtract(lowest, relax.op.divide(low, scale)))
    zero = emit(zero)
    steps = relax.op.add(relax.op.round(relax.op.divide(value, scale)), zero)
    return relax.Tuple([_clipped(steps, "int8"), scale, relax.op.astype(zero, "int32")])


def symmetric(x: relax.Expr, axes: list[int]) -> relax.Expr:
    """x, which is float32, rounded to steps of its own range over `axes`.

    scale = max|x| / 127, or 1 where that is at most TINY, so that 1 / scale is finite; returns
    round(x / scale) * scale.
    """
    emit = relax.BlockBuilder.current().emit
    most = relax.op.max(relax.op.abs(x), axes, keepdims=True)
    step = emit(relax.op.divide(most, relax.const(float(HIGH), "float32")))
    tiny = relax.op.less_equal(step, relax.const(TINY, "float32"))
    scale = emit(relax.op.where(tiny, relax.const(1.0, "float32"), step))
    return emit(relax.op.multiply(relax.op.round(relax.op.divide(x, scale)), scale))


def stored(x: relax.Expr, out_dtype: str, extra: list[relax.Expr]) -> relax.Expr:
    """x, which is float32, as a kernel writes it: integers take factor and zero from `extra`."""
    if out_dtype in ("int8", "uint8"):
        return quantize(x, extra.pop(0), extra.pop(0), dtype=out_dtype)
    return x if out_dtype == "float32" else relax.op.astype(x, out_dtype)


def _clipped(steps: relax.Expr, dtype: str) -> relax.Expr:
    """In this order NaN becomes the least integer, as in onnxruntime on x86."""
    low = LOW if dtype == "int8" else 0
    least, most = (relax.const(limit, "float32") for limit in (low, low + STEPS))
    return relax.op.astype(relax.op.minimum(relax.op.maximum(steps, least), most), dtype)
