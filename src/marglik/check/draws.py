# SPDX-License-Identifier: BSD-3-Clause
"""Points to weight: even draws in several independent copies, Student's t about a mode, and the tail of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaincinv, gammaln, logsumexp, ndtri, stdtrit

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

COPIES = 8
"""Independently shifted copies of the points: their scatter is the standard error."""


TRIED = 64
"""Multipliers that are tried for a lattice."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A log integral by importance sampling.

    Attributes
    ----------
    log_value
        log (1/N) Σ exp(log weights), in nats.
    std_error
        From the scatter of independent copies of the draws.
    k_hat
        Shape of the tail of the weights, the worst where there are several integrals; above 0.7 the value is not known.
    efficiency
        Effective share of the draws, (Σ r)²/(N Σ r²), the worst where there are several.
    """

    log_value: float
    std_error: float
    k_hat: float
    efficiency: float

    @property
    def known(self) -> bool:
        """Whether the draws tell the value."""
        return self.k_hat <= 0.7 and self.std_error < 0.25 and bool(np.isfinite(self.log_value))


def even(n: int, d: int, rng: np.random.Generator) -> Float[Array, "c n d"]:
    """`COPIES` of n points that fill the unit cube evenly: x_kj = (k aʲ / n + U_j) mod 1, U uniform for each copy.

    A lattice is exact for waves up to some frequency, so that smooth integrands that vanish at the faces of the cube
    converge much faster than by independent draws (Korobov 1959; Cranley & Patterson 1976).
    """
    x = (_lattice(n, d) + rng.random((COPIES, 1, d))) % 1
    return np.clip(x, 1e-15, 1 - 1e-15)


@lru_cache(64)
def _lattice(n: int, d: int) -> Float[Array, "n d"]:
    """Korobov's lattice with the best of some multipliers a: that of the least Σ_k Π_j (1 + 2π² B₂(x_kj))."""
    k = np.arange(n)
    tried = np.unique(np.linspace(1, max(n // 2, 1), min(n, TRIED)).astype(int)) if d > 1 else np.array([1])
    best, least = k[:, None] / n, np.inf
    for a in tried[np.gcd(tried, n) == 1]:
        powers = [pow(int(a), j, n) for j in range(d)]
        x = np.outer(k, powers) % n / n
        criterion = float(np.sum(np.prod(1 + 2 * np.pi**2 * (x**2 - x + 1 / 6), axis=1)))
        if criterion < least:
            best, least = x, criterion
    return best


def student(n: int, d: int, df: float, rng: np.random.Generator) -> Float[Array, "c n d"]:
    """Draws from Student's t with the identity for a scale matrix: z √(df/χ²)."""
    x = even(n, d + 1, rng)
    return ndtri(x[..., :d]) * np.sqrt(df / (2 * gammaincinv(df / 2, x[..., d:])))


def students(n: int, d: int, df: float, rng: np.random.Generator) -> Float[Array, "c n d"]:
    """Draws whose coordinates are independent, each from Student's t."""
    return stdtrit(df, even(n, d, rng))


def log_student(square: Float[Array, "*n"], d: int, df: float) -> Float[Array, "*n"]:
    """Its log density where |x|² is ``square``."""
    constant = gammaln((df + d) / 2) - gammaln(df / 2) - d * np.log(df * np.pi) / 2
    return constant - (df + d) / 2 * np.log1p(square / df)


def estimate(log_weights: Float[Array, "c n"]) -> Estimate:
    """From the log weights of all copies."""
    each = logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1])
    flat = log_weights.reshape(1, -1)
    return Estimate(
        float(logsumexp(each) - np.log(len(each))),
        spread(each),
        float(pareto_k(flat)[0]),
        float(efficiency(flat)[0]),
    )


def spread(each: Float[Array, "c"]) -> float:
    """Standard error of the log of the mean of independent exp(each)."""
    if not np.isfinite(each).all():
        return np.inf
    r = np.exp(each - each.max())
    return float(r.std(ddof=1) / r.mean() / np.sqrt(len(r)))


def efficiency(log_weights: Float[Array, "q n"]) -> Float[Array, "q"]:
    """(Σ r)² / (n Σ r²) of each row."""
    return np.exp(2 * logsumexp(log_weights, axis=1) - logsumexp(2 * log_weights, axis=1)) / log_weights.shape[1]


def pareto_k(log_weights: Float[Array, "q n"]) -> Float[Array, "q"]:
    """Shape k̂ of a generalised Pareto distribution fitted to the largest min(n/5, 3√n) weights of each row.

    References
    ----------
    Zhang & Stephens (2009), Technometrics 51, 316. Vehtari, Simpson, Gelman, Yao & Gabry (2024), JMLR 25(72).
    """
    n = log_weights.shape[1]
    m = int(min(np.ceil(n / 5), np.ceil(3 * np.sqrt(n))))
    top = np.partition(log_weights, n - m - 1, axis=1)[:, n - m - 1 :]
    top = np.sort(np.exp(top - top.max(axis=1, keepdims=True)), axis=1)
    x = top[:, 1:] - top[:, :1]
    largest = x[:, -1:]
    flat = largest[:, 0] <= 1e-12  # all weights alike
    x = np.where(flat[:, None], np.linspace(0, 1, m + 1)[1:], x)
    largest = x[:, -1:]
    quarter = np.maximum(x[:, [max(int(m / 4 + 0.5) - 1, 0)]], 1e-300)
    grid = np.arange(1, 31 + int(np.sqrt(m)))
    b = 1 / largest + (1 - np.sqrt(len(grid) / (grid - 0.5))) / (3 * quarter)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        k = np.array([np.log1p(-column[:, None] * x).mean(axis=1) for column in b.T]).T
        profile = m * (np.log(-b / k) - k - 1)
        profile = np.where(np.isfinite(profile), profile, -np.inf)
        share = np.exp(profile - logsumexp(profile, axis=1, keepdims=True))
        best = np.sum(np.where(share > 0, b * share, 0), axis=1, keepdims=True)
        shape = np.log1p(-best * x).mean(axis=1)
    shape = (m * shape + 5) / (m + 10)  # a weak prior at 0.5, as Vehtari et al. have it
    return np.where(flat, -np.inf, np.where(np.isnan(shape), np.inf, shape))
