# SPDX-License-Identifier: BSD-3-Clause
"""Maxima of the evidence without noise, where there are at least as many columns as rows and one scale a column.

With b = 0 every local maximum has N columns A that fit y exactly, each scale as large as its weight (Wipf & Rao 2004,
IEEE Trans. Signal Processing 52, 2153):

    w = X_A⁻¹y,    s = |w|,    ℓ = −Σ log|w_j| − log|det X_A| − N/2 (1 + log 2π)

There are many. Exchanging column k of A for column j, with d = X_A⁻¹x_j, raises ℓ by

    Σ_{i≠k} log|w_i| − log|w_i − d_i w_k/d_k|

The best exchange is made again and again; where that is cheap also when it loses, with columns that have just moved
barred from moving back (tabu search, Glover 1989, ORSA J. Computing 1, 190).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import lapack

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

CHEAP, AFFORDABLE = 40_000, 20_000_000
"""Numbers to look at for the best exchange, up to which many are made, or any."""
MANY = 1000
LEAST = 1e-9
"""Nats that an exchange must gain."""
TINY = 1e-15
"""Weights count as no smaller than this: those of an exact fit by fewer columns are rounding."""
DEPENDENT = 1e-8
"""Squared length outside the span of other columns, from which a column counts as independent."""
PIVOT = 1e-9


class Fit(NamedTuple):
    """Columns that fit y exactly, their weights, and ℓ + N/2 (1 + log 2π − log N), as `relevance.Point` has it."""

    columns: Int[Array, "n"]
    weights: Float[Array, "n"]
    value: float


def search(G: Float[Array, "p p"], z: Float[Array, "p"], n: int, starts: Sequence[Int[Array, "m"]]) -> Fit | None:
    """The best fit found.

    Parameters
    ----------
    G, z
        XᵀX and Xᵀy.
    n
        N, the rank of G.
    starts
        Columns to set out from, in order of importance.
    """
    work = n * n * (len(z) - n)
    rounds = 0 if work > AFFORDABLE else MANY
    found = [_climbed(_Table.of(G, z, _completed(G, start, n)), rounds) for start in starts]
    fits = [fit for fit in found if fit is not None]
    best = max(fits, key=lambda fit: fit.value, default=None)
    if best is None or not 0 < work <= CHEAP:
        return best
    return _wandered(_Table.of(G, z, best.columns), best)


def rank(G: Float[Array, "p p"]) -> int:
    """How many independent columns there are."""
    return int(lapack.dpstrf(G, lower=1, tol=DEPENDENT)[2])


def _completed(G: Array, start: Array, n: int) -> Int[Array, "n"]:
    """Independent columns: those of ``start``, in order, then whichever are furthest from the span of the others."""
    left, W = np.ones(len(G)), np.zeros((n, len(G)))
    chosen: list[int] = []
    queue = start.tolist()
    for k in range(n):
        while queue and left[queue[0]] <= DEPENDENT:
            queue.pop(0)
        j = queue.pop(0) if queue else int(np.argmax(left))
        W[k] = (G[j] - W[:k, j] @ W[:k]) / math.sqrt(max(left[j], 1e-300))
        left = left - W[k] ** 2
        left[j] = 0.0
        chosen.append(j)
    return np.array(chosen)


class _Table:
    """w = X_A⁻¹y and D = X_A⁻¹X_Z for the columns A inside and Z outside, kept up to date as they change places."""

    def __init__(self, G: Array, z: Array, A: Array):
        self.G, self.z = G, z
        self.A, self.Z = A.copy(), np.setdiff1d(np.arange(len(z)), A)
        self.refresh()

    @classmethod
    def of(cls, G: Array, z: Array, A: Array) -> _Table | None:
        """None where the columns are dependent to rounding."""
        try:
            return cls(G, z, A)
        except np.linalg.LinAlgError:
            return None

    def refresh(self) -> None:
        """All of it from the Gram matrix; `LinAlgError` where the columns inside are dependent."""
        A, n = self.A, len(self.A)
        L, info = lapack.dpotrf(self.G[A[:, None], A], lower=1)
        if info:
            raise np.linalg.LinAlgError
        solved = lapack.dpotrs(L, np.column_stack([self.z[A], self.G[A[:, None], self.Z]]), lower=1)[0]
        self.w, self.D = solved[:, 0], solved[:, 1:]
        self.value = -float(_logs(self.w).sum() + np.log(L.diagonal()).sum()) - n / 2 * math.log(n)

    @property
    def fit(self) -> Fit:
        """As it stands."""
        return Fit(self.A.copy(), self.w.copy(), self.value)

    def gains(self) -> Float[Array, "n z"]:
        """What every exchange would gain; a few columns at a time, as memory likes."""
        w, n = self.w, len(self.w)
        logs, each = _logs(w), np.arange(n)
        gain = np.empty(self.D.shape)
        size = max(1, 500_000 // (n * n))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for first in range(0, self.D.shape[1], size):
                d = self.D[:, first : first + size]
                left = _logs(w[:, None, None] - d[:, None, :] * (w[:, None] / d))  # i, k, j
                left[each, each] = logs[:, None]
                gain[:, first : first + size] = logs.sum() - left.sum(axis=0)
        return np.where(np.abs(self.D) > PIVOT, gain, -np.inf)

    def exchange(self, k: int, j: int, gain: float) -> None:
        """Column k inside for column j outside."""
        d, pivot = self.D[:, j].copy(), self.D[k, j]
        weight, row = self.w[k] / pivot, self.D[k] / pivot
        self.w = self.w - d * weight
        self.w[k] = weight
        self.D = self.D - np.multiply.outer(d, row)
        self.D[k] = row
        self.D[:, j] = -d / pivot
        self.D[k, j] = 1 / pivot
        self.A[k], self.Z[j] = self.Z[j], self.A[k]
        self.value += gain


def _logs(x: Array) -> Array:
    return np.log(np.maximum(np.abs(x), TINY))


def _climbed(table: _Table | None, rounds: int) -> Fit | None:
    """The best exchange made until none gains."""
    if table is None:
        return None
    for _ in range(rounds if len(table.Z) else 0):
        gains = table.gains()
        k, j = np.unravel_index(int(np.argmax(gains)), gains.shape)
        if not gains[k, j] > LEAST:
            break
        table.exchange(int(k), int(j), gains[k, j])
        table.refresh()
    return table.fit


def _wandered(table: _Table | None, best: Fit) -> Fit:
    """The best exchange made `MANY` times, whether or not it gains."""
    if table is None:
        return best
    rng = np.random.default_rng(0)
    n, barred = len(table.A), np.zeros(len(table.z), int)
    for step in range(1, MANY + 1):
        gains = table.gains()
        resting = (barred[table.A] > step)[:, None] | (barred[table.Z] > step)
        gains[resting & (table.value + gains <= best.value + LEAST)] = -np.inf
        k, j = np.unravel_index(int(np.argmax(gains)), gains.shape)
        if not np.isfinite(gains[k, j]):
            continue
        barred[table.A[k]] = step + rng.integers(4, 4 + max(3, n // 2))
        barred[table.Z[j]] = step + rng.integers(3, 6)
        table.exchange(int(k), int(j), gains[k, j])
        if step % 25 == 0:
            table.refresh()
        if table.value > best.value + LEAST:
            best = table.fit
    return max(best, _climbed(_Table.of(table.G, table.z, best.columns), MANY) or best, key=lambda fit: fit.value)
