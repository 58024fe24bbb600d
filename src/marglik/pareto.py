# SPDX-License-Identifier: BSD-3-Clause
"""The tail of importance weights as a generalised Pareto distribution: its shape k̂, and weights smoothed by it.

References
----------
Zhang & Stephens (2009), Technometrics 51, 316 (the fit). Vehtari, Simpson, Gelman, Yao & Gabry (2024), JMLR 25, 72
(Pareto smoothed importance sampling).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

LEAST = 5
"""Fewer weights in the tail say nothing of it."""
PRIOR_SHAPE, PRIOR_DRAWS = 0.5, 10
"""k̂ is drawn towards 0.5 as by so many observations."""
QUARTILE_DRAWS = 3
"""A parameter of Zhang and Stephens's prior."""


def tail_length(n: int) -> int:
    """How many of n weights make up the tail."""
    return int(min(n // 5, math.ceil(3 * math.sqrt(n))))


def shape(log_weights: Float[Array, "*q n"]) -> Float[Array, "*q"]:
    """k̂ along the last axis; NaN where the tail is too short, −∞ where all weights in it are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.pareto import shape
    >>> u = (np.arange(4000) + 0.5) / 4000
    >>> float(shape(-0.4 * np.log(u)).round(1))  # weights with P(w > x) = x^(−1/0.4)
    0.4
    """
    ordered = np.sort(np.asarray(log_weights, float), axis=-1)
    m = tail_length(ordered.shape[-1])
    if m < LEAST:
        return np.full(ordered.shape[:-1], np.nan)
    return np.asarray(_fit(_excesses(ordered, m))[0])


def smoothed(log_weights: Float[Array, "n"]) -> Float[Array, "n"]:
    """Log weights in order, the tail at the expected places of a Pareto distribution, none above the largest."""
    ordered = np.sort(np.asarray(log_weights, float))
    m = tail_length(len(ordered))
    if m < LEAST:
        return ordered
    cut, top = ordered[-m - 1], ordered[-1]
    k, sigma = _fit(_excesses(ordered, m))
    if not np.isfinite(k):
        return ordered
    u = (np.arange(m) + 0.5) / m
    quantiles = -sigma * np.log1p(-u) if abs(k) < 1e-9 else sigma * np.expm1(-k * np.log1p(-u)) / k
    ordered[-m:] = np.minimum(top + np.log(np.exp(cut - top) + quantiles), top)
    return ordered


def _excesses(ordered: Float[Array, "*q n"], m: int) -> Float[Array, "*q m"]:
    """w − w_cut of the tail, in units of the largest weight."""
    top = ordered[..., -1:]
    with np.errstate(invalid="ignore"):
        return np.exp(ordered[..., -m:] - top) - np.exp(ordered[..., -m - 1 : -m] - top)


def _fit(x: Float[Array, "*q m"]) -> tuple[Float[Array, "*q"], Float[Array, "*q"]]:
    """Shape and scale by Zhang and Stephens's average over a grid of θ = −k/σ, weighted by the profile likelihood."""
    m = x.shape[-1]
    points = 30 + int(math.sqrt(m))
    largest, quartile = x[..., -1], x[..., int(m / 4 + 0.5) - 1]
    with np.errstate(all="ignore"):
        steps = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
        b = steps / (QUARTILE_DRAWS * quartile[..., None]) + 1 / largest[..., None]
        k = np.log1p(-b[..., None] * x[..., None, :]).mean(axis=-1)
        profile = m * (np.log(-b / k) - k - 1)
        share = 1 / np.exp(profile[..., None, :] - profile[..., :, None]).sum(axis=-1)
        share = np.where(share >= 10 * np.finfo(float).eps, share, 0.0)
        b = (b * share).sum(axis=-1) / share.sum(axis=-1)
        k = np.log1p(-b[..., None] * x).mean(axis=-1)
        sigma = -k / b
        k = (m * k + PRIOR_DRAWS * PRIOR_SHAPE) / (m + PRIOR_DRAWS)
    equal = largest <= 0
    return np.where(equal, -np.inf, k), np.where(equal, 0.0, sigma)
