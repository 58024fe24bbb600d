# SPDX-License-Identifier: BSD-3-Clause
"""Functions of the gamma family that keep their digits where textbook forms cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy import log, log1p
from scipy.special import digamma, gammaln

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    Numbers = Float[Array, "..."] | float

LOG_2PI = float(np.log(2 * np.pi))
BERNOULLI = [1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6]
"""B₂, B₄, … of Stirling's series."""
ASYMPTOTIC = 16.0
"""From here on Stirling's series has all digits."""


def log1pmx(x: Numbers, log1p_x: Numbers | None = None) -> Float[Array, "..."]:
    """log(1 + x) − x = r (2 r² (1/3 + r²/5 + r⁴/7 + …) − x) with r = x / (2 + x).

    A log(1 + x) that is known better than from x is used where x is large.
    """
    log1p_x = log1p(x) if log1p_x is None else log1p_x
    near = np.clip(x, -0.3, 0.3)
    r = near / (2 + near)
    z = r * r
    series = 2 * z * horner(z, [1 / (2 * k + 3) for k in range(9)])
    return np.where(x == near, r * (series - x), log1p_x - x)


def share_less_log1p(x: Numbers) -> Float[Array, "..."]:
    """x/(1 + x) − log(1 + x), x ≥ 0: −x²/2 at first, −log x at last."""
    near = np.minimum(x, 0.3)
    return np.where(x < 0.3, log1pmx(-near / (1 + near)), x / (1 + x) - log1p(x))


def stirling(x: Numbers, log_x: Numbers | None = None) -> Float[Array, "..."]:
    """δ(x) = log Γ(x) − [(x − ½) log x − x + ½ log 2π] = 1/12x − 1/360x³ + …, x > 0.

    With log x given it is finite also where x is too small for a number other than 0.
    """
    log_x = log(x) if log_x is None else log_x
    r = 1 / np.maximum(x, ASYMPTOTIC)
    series = r * horner(r * r, [b / ((2 * k + 1) * (2 * k + 2)) for k, b in enumerate(BERNOULLI)])
    return np.where(x < ASYMPTOTIC, gammaln(1 + x) - ((x + 0.5) * log_x - x + LOG_2PI / 2), series)


def stirling_slope(x: Numbers) -> Float[Array, "..."]:
    """δ′(x) = ψ(x) − log x + 1/2x = −1/12x² + 1/120x⁴ − …."""
    r = 1 / np.maximum(x, ASYMPTOTIC)
    series = -r * r * horner(r * r, [b / (2 * k + 2) for k, b in enumerate(BERNOULLI)])
    return np.where(x < ASYMPTOTIC, digamma(x) - log(x) + 0.5 / x, series)


def polygammas(x: Numbers) -> tuple[Array, Array, Array]:
    """ψ(x), ψ′(x), ψ″(x): recurrence to x + 10, from there Stirling's series.

    Together they cost a twentieth of SciPy's polygamma.
    """
    first, second, third = np.zeros((3, *np.shape(x)))
    for j in range(10):
        r = 1 / (x + j)
        r2 = r * r
        first -= r
        second += r2
        third -= 2 * r2 * r
    far = x + 10.0
    r = 1 / far
    z = r * r
    first += log(far) - r / 2 - z * horner(z, [b / (2 * k + 2) for k, b in enumerate(BERNOULLI)])
    second += r + z / 2 + z * r * horner(z, BERNOULLI)
    third -= z + z * r + z * z * horner(z, [(2 * k + 3) * b for k, b in enumerate(BERNOULLI)])
    return first, second, third


def log_rising(y: Numbers, s: Numbers) -> Float[Array, "..."]:
    """log Γ(s + y) − log Γ(s) − y log s, which goes to 0 as s → ∞."""
    t = y / s
    return s * log1pmx(t) + (y - 0.5) * log1p(t) + stirling(s + y) - stirling(s)


def log_rising_slope(y: Numbers, s: Numbers) -> Float[Array, "..."]:
    """Its derivative in s, ψ(s + y) − ψ(s) − y/s."""
    t = y / s
    return log1pmx(t) + t / (2 * (s + y)) + stirling_slope(s + y) - stirling_slope(s)


def log_factorial(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """log y! for counts."""
    return over_counts(lambda k: gammaln(k + 1), y)


def over_counts(f: Callable[[Array], Array], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """f(y) for counts, from a table of f(0), f(1), … where that is shorter than y."""
    y = np.asarray(y, float)
    top = y.max(initial=0)
    return f(y) if top >= y.size else f(np.arange(top + 1))[y.astype(int)]


def horner(x: Numbers, coefficients: list[float]) -> Float[Array, "..."]:
    """c₀ + c₁x + c₂x² + …."""
    total: Array | float = 0.0
    for c in reversed(coefficients):
        total = total * x + c
    return total  # type: ignore[return-value]
