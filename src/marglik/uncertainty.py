# SPDX-License-Identifier: BSD-3-Clause
"""Error bars on hyperparameters: from the curvature in φ, and from the drop of the evidence at a boundary."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from marglik import learn

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.hyperparameters import Hyperparameters

DROP = 2.705543454095404 / 2
"""Half the 0.90 quantile of χ²₁: at a boundary the likelihood ratio is zero half of the time (Self & Liang 1987)."""


def wald(names: Hyperparameters, optimum: learn.Found, level: float = 0.95) -> dict[str, Float[Array, "V k"]]:
    """Columns ``estimate, se, lower, upper, at_boundary``; intervals on the unconstrained scale."""
    theta = np.where(optimum.limit, limit_values(names, optimum), optimum.theta)
    variance = np.einsum("vkk->vk", learn.covariance(optimum))
    held = ~optimum.free
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sd_phi = np.where(held, np.nan, np.sqrt(variance))
        slope = names.derivatives(optimum.theta)[0]
        phi, z = names.unconstrain(optimum.theta), ndtri((1 + level) / 2)
        lower, upper = names.constrain(phi - z * sd_phi), names.constrain(phi + z * sd_phi)
    given = held & ~optimum.limit
    return {
        "estimate": theta,
        "se": sd_phi * np.abs(slope),
        "lower": np.where(given, theta, np.where(optimum.limit, np.where(np.isinf(theta), np.nan, theta), lower)),
        "upper": np.where(given, theta, np.where(optimum.limit, np.where(np.isinf(theta), theta, np.nan), upper)),
        "at_boundary": optimum.limit,
    }


def limit_values(names: Hyperparameters, optimum: learn.Found) -> Float[Array, "V k"]:
    """The end of the support that each coordinate runs to."""
    lower = np.array([h.support.lower for h in names])
    upper = np.array([h.support.upper for h in names])
    with np.errstate(divide="ignore"):
        phi = names.unconstrain(optimum.theta)
    return np.where(phi < 0, lower, upper)


def scale_limits(objective: learn.Objective, optimum: learn.Found) -> Float[Array, "V k"]:
    """For scales at zero, where the log evidence with the others re-optimised has dropped by `DROP`."""
    V, k = optimum.theta.shape
    out = np.full((V, k), np.nan)
    estimates = limit_values(objective.hyperparameters, optimum)
    for i in map(int, np.flatnonzero(optimum.limit.any(axis=0))):
        rows = np.flatnonzero(optimum.limit[:, i] & (estimates[:, i] == 0))
        there = objective if V == 1 else replace(objective, model=objective.model.subset(rows))
        out[rows, i] = _drop_point(there, optimum.theta[rows], optimum.value[rows], optimum.free[rows], i)
    return out


def _drop_point(
    objective: learn.Objective, theta: Array, value: Array, free: Array, i: int, steps: int = 60
) -> Float[Array, "V"]:
    """The scale by bracketing log s outwards from its natural size, then bisection."""
    free = free.copy()
    free[:, i] = False

    def drop(log_s: Array) -> Array:
        start = theta.copy()
        start[:, i] = np.exp(log_s)
        return value - learn.maximise(objective, start, free).value - DROP

    high = np.full(len(free), np.log(objective.units[i]))
    low = high.copy()
    for _ in range(steps):
        f = drop(high)
        if (f > 0).all():
            break
        high = np.where(f > 0, high, high + 1)
    for _ in range(steps):
        f = drop(low)
        if (f < 0).all():
            break
        low = np.where(f < 0, low, low - 1)
    for _ in range(steps):
        middle = (low + high) / 2
        above = drop(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
        if np.max(high - low) < 1e-7:
            break
    return np.exp((low + high) / 2)
