"""GPTQ: the rounding of a weight makes up for the errors of those that were rounded before it."""

from __future__ import annotations

import numpy as np

BLOCK = 64      # rows whose errors reach the rest in one product of matrices
DAMP = 0.01     # of the mean of the diagonal: keeps what calibration has hardly seen from mattering


def round_in_order(
    weight: np.ndarray, scale: np.ndarray, second: np.ndarray, low: int, high: int
) -> np.ndarray:
    """int8 q [k, n] from `low` to `high` with a small error of x @ (q * scale) against x @ weight.

    `scale` is [groups, n], each for k / groups rows; `second` [k, k] is the mean of x^T x, or where
    a bias makes up for the mean error, the covariance of x. Frantar et al., "GPTQ: Accurate
    Post-Training Quantization for Generative Pre-trained Transformers", 2022: rows are rounded one
    after the other, the greatest of the diagonal of `second` first, and
    the error of each is spread over those to come by Cholesky's factor of the inverse of `second`.
    """
    k = len(weight)
    order = np.argsort(-np.diag(second), kind="stable")
    steps = scale[order // (k // len(scale))]
    left = weight[order].astype(np.float32)
    spread = _spread(second[np.ix_(order, order)])
    rounded = np.empty(weight.shape, np.int8)
    for first in range(0, k, BLOCK):
        last = min(first + BLOCK, k)
        block, errors = left[first:last], np.empty_like(left[first:last])
        near = spread[first:last, first:last]
        for i in range(last - first):
            step = steps[first + i]
            q = np.clip(np.rint(block[i] / step), low, high)
            rounded[order[first + i]] = q
            errors[i] = (block[i] - q * step) / near[i, i]
            block[i + 1 :] -= near[i, i + 1 :, None] * errors[i]
        left[last:] -= spread[first:last, last:].T @ errors
    return rounded


def fit_scales(
    rounded: np.ndarray, weight: np.ndarray, second: np.ndarray, groups: int
) -> np.ndarray:
    """The scales [groups, n] with the least squares of x @ (`rounded` * scale - `weight`).

    For each column they solve (A^T H A) s = A^T H w, where H is `second` and column g of A holds
    the rounded weights of group g.
    """
    k, n = weight.shape
    h = _damped(second).astype(np.float32)
    q = rounded.astype(np.float32).reshape(groups, k // groups, n)
    left = np.empty((n, groups, groups))
    for g in range(groups):
        reach = h[:, g * (k // groups) : (g + 1) * (k // groups)] @ q[g]
        left[:, :, g] = np.einsum("gin,gin->ng", q, reach.reshape(q.shape))
    right = np.einsum("gin,gin->ng", q, (h @ weight).reshape(q.shape))
    diagonal = np.einsum("ngg->ng", left)
    # so that a group of zeros, which any scale fits, does not make it singular
    diagonal += 1e-6 * diagonal.mean(axis=1, keepdims=True) + 1e-30
    return np.linalg.solve(left, right[..., None].astype(np.float64))[..., 0].T.astype(np.float32)


def _damped(second: np.ndarray) -> np.ndarray:
    damped = second.astype(np.float64)
    damped[np.diag_indices(len(damped))] += DAMP * max(float(np.diag(second).mean()), 1e-30)
    return damped


def _spread(second: np.ndarray) -> np.ndarray:
    """Cholesky's upper factor of the inverse of `second`, float32 [k, k].

    It is the inverse of the factor R of second = R R^T, which numpy finds from the last row on.
    """
    backward = np.linalg.cholesky(_damped(second)[::-1, ::-1])
    factor: np.ndarray = np.linalg.inv(backward)[::-1, ::-1].astype(np.float32)
    return factor
