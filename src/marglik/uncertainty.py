# SPDX-License-Identifier: BSD-3-Clause
"""Error bars on hyperparameters: from the curvature in φ, and from the drop of the evidence at a boundary."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from marglik import learn
from marglik.hyperparameters import Real
from marglik.profiles import Profile
from marglik.validate import listed

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.evidence import Evidence
    from marglik.hyperparameters import Hyperparameters, Support

DROP = 2.705543454095404 / 2
"""Half the 0.90 quantile of χ²₁: at a boundary the likelihood ratio is zero half of the time (Self & Liang 1987)."""


FAR = 50.0
"""So many times further out than where the data tell a ratio alone, they tell nothing else."""
POLE = 1e6
"""A larger slope where the search ends is that of an evidence without a maximum."""
LOST = (
    "The evidence rises without end towards a place where the mode of the weights is lost, as Laplace's does under "
    "some likelihoods that are not concave: use method='variational', or hold a hyperparameter with fixed=."
)
ENDLESS = 50.0
"""A maximum that a slope promises further up in φ is none."""
FLAT, STEEP, INVOLVED, VAGUE = 1e-4, 1e-3, 0.1, 1.0
"""Less curvature than this, in nats in φ, is none; more slope elsewhere is no maximum; a lesser share of a direction is
not named; a smaller error in φ says that the data tell a value."""


def undetermined(names: Hyperparameters, optimum: learn.Found) -> str:
    """Which hyperparameters the evidence is all but flat along at its maximum, as a sentence; empty for none."""
    errors = np.sqrt(np.einsum("vkk->vk", learn.covariance(optimum)))
    for theta, H, slope, free, sd in zip(
        optimum.theta, optimum.hessian, optimum.gradient, optimum.free, errors, strict=True
    ):
        meant = np.array([h.beyond is None or theta[names.index(h.beyond[1])] != 0 for h in names], bool)
        for h, value, error in zip(names, theta, sd, strict=True):
            if h.beyond is None or not h.beyond[0] < value < np.inf:
                continue
            if value > FAR * h.beyond[0] or not error < VAGUE:  # far out the curvature is rounding
                return (
                    f"The data tell little more than the ratio of {h.name} and {h.beyond[1]}: hold one of them with "
                    "fixed=."
                )
        for i in np.flatnonzero(free & (slope > STEEP) & (H.diagonal() > -slope / ENDLESS)):
            if names[i].even:
                return (
                    f"The evidence rises as {names[i].name} grows without end, as it does where columns tell all "
                    "responses apart (separation): hold it with fixed=, give it a hyperprior=, or maximise fixed "
                    "effects, reml=False."
                )
        at = np.flatnonzero(free & meant)
        if not np.isfinite(H[np.ix_(at, at)]).all():
            return LOST if np.abs(slope[at]).max(initial=0) > POLE else ""
        d, U = np.linalg.eigh(-H[np.ix_(at, at)])
        flat = U[:, np.abs(d) < FLAT]
        rest = slope[at] - flat @ (flat.T @ slope[at])
        if flat.size and np.isfinite(d).all() and np.abs(rest).max() < STEEP:
            one, *more = (names[i].name for i in at[(flat**2).sum(axis=1) > INVOLVED])
            if more:
                return f"The data do not tell {listed([one, *more])} apart: hold one of them with fixed=."
            return f"The data do not tell {one}: the evidence is the same whatever it is; hold it with fixed=."
    return ""


def wald(names: Hyperparameters, optimum: learn.Found, level: float = 0.95) -> dict[str, Float[Array, "V r"]]:
    """Columns ``estimate, se, lower, upper, at_boundary`` of what users see; intervals on the unconstrained scale."""
    theta = np.where(optimum.limit, limit_values(names, optimum), optimum.theta)
    variance = np.einsum("vkk->vk", learn.covariance(optimum))
    held = ~optimum.free
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sd_phi = np.where(held, np.nan, np.sqrt(variance))
        slope = names.derivatives(optimum.theta)[0]
        phi, z = names.unconstrain(optimum.theta), ndtri((1 + level) / 2)
        ends = names.constrain(phi - z * sd_phi), names.constrain(phi + z * sd_phi)
        lower, upper = np.minimum(*ends), np.maximum(*ends)
    given, highest = held & ~optimum.limit, theta == [h.support.upper for h in names]
    table = {
        "estimate": theta,
        "se": sd_phi * np.abs(slope),
        "lower": np.where(given, theta, np.where(optimum.limit, np.where(highest, np.nan, theta), lower)),
        "upper": np.where(given, theta, np.where(optimum.limit, np.where(highest, theta, np.nan), upper)),
        "at_boundary": optimum.limit,
    }
    return table if not names.images else _reported(names, optimum, table, z)


def _reported(
    names: Hyperparameters, optimum: learn.Found, table: dict[str, Array], z: float
) -> dict[str, Float[Array, "V r"]]:
    """Coordinates give way to what they stand for together: intervals on the unconstrained scale of each of these."""
    theta = optimum.theta
    values = names.report(theta)
    plain = [i for i, h in enumerate(names) if h.image is None and not h.fixed_effect]
    there = [names.reported.index(names[i].name) for i in plain]
    out = {column: np.full(values.shape, np.nan) for column in table}
    out["estimate"] = values
    for column, entries in table.items():
        out[column][:, there] = entries[:, plain]
    slope = names.derivatives(theta)[0]
    covariance = learn.covariance(optimum) * slope[:, :, None] * slope[:, None, :]
    inside = np.setdiff1d(np.arange(len(names.reported)), there)
    supports = [names.reported_supports[r] for r in inside]
    lower, upper = (np.array([getattr(s, end) for s in supports]) for end in ("lower", "upper"))
    for v in range(len(theta)):
        J = names.report_jacobian(theta[v])[inside]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            se = np.sqrt(np.einsum("rk,kl,rl->r", J, covariance[v], J))
            x = values[v, inside]
            low, high = np.array([_around(s, at, e, z) for s, at, e in zip(supports, x, se, strict=True)]).T
        held = names.given(~optimum.free[v] & ~optimum.limit[v])
        given = held[inside]
        at_upper = (x == upper) & np.isfinite(upper)
        end = at_upper | (x == lower) | np.isnan(x)
        out["se"][v, inside] = np.where(end | given, np.nan, se)
        out["lower"][v, inside] = np.where(given | (end & ~at_upper), x, np.where(end, np.nan, low))
        out["upper"][v, inside] = np.where(given | (end & at_upper), x, np.where(end, np.nan, high))
        void = np.isnan(x) & names.with_given_scale(held)[inside]  # no correlation with what is held not to vary
        out["at_boundary"][v, inside] = end & ~given & ~void
    return out


def _around(support: Support, x: float, se: float, z: float) -> tuple[float, float]:
    """The ends of x ± z se, on the unconstrained scale."""
    here = np.asarray(x)
    phi, half = support.to_unconstrained(here), z * se / np.abs(support.derivatives(here)[0])
    low, high = sorted((float(support.from_unconstrained(phi - half)), float(support.from_unconstrained(phi + half))))
    return low, high


def limit_values(names: Hyperparameters, optimum: learn.Found) -> Float[Array, "V k"]:
    """The end of the support that each coordinate runs to."""
    with np.errstate(divide="ignore"):
        ends = names.constrain(np.where(names.unconstrain(optimum.theta) < 0, -np.inf, np.inf))
    return np.where([isinstance(h.support, Real) for h in names], optimum.theta, ends)


def value_at_limit(names: Hyperparameters, optimum: learn.Found, found: Evidence) -> Float[Array, "V"]:
    """The log evidence where hyperparameters that run to zero have arrived.

    Along s it is ℓ(0) + κ s² near zero, so ℓ(0) = ℓ(s) − ½ s ∂ℓ/∂s.
    """
    running = optimum.limit & (limit_values(names, optimum) == 0) & (optimum.theta > 0)
    gradient = found.gradient if running.any() else 0.0
    return found.log_value - np.sum(running * optimum.theta * gradient, axis=1) / 2


def scale_limits(objective: learn.Objective, optimum: learn.Found) -> Float[Array, "V k"]:
    """For scales at zero, where the log evidence has dropped by `DROP`.

    The others are re-optimised, unless the method has limits of its own.
    """
    V, k = optimum.theta.shape
    out = np.full((V, k), np.nan)
    names = objective.hyperparameters
    at_zero = optimum.limit & (limit_values(names, optimum) == 0) & [h.image is None for h in names]
    asked = optimum.free | (optimum.limit & (optimum.theta == 0))
    alone = None if objective.hyperprior else objective.method.limits(objective.model, optimum.theta, DROP)
    if alone is not None:
        out, asked = np.where(at_zero, alone, np.nan), np.zeros_like(asked)
        at_zero &= np.isnan(out)
    for i in map(int, np.flatnonzero(at_zero.any(axis=0))):
        rows = np.flatnonzero(at_zero[:, i])
        if names.triangles:  # whose zeros are stationary: from there no climb sets out by itself
            profile = Profile(objective, optimum, names[i].name)  # type: ignore[arg-type]
            out[rows, i] = profile.ends(0.0, np.nan, DROP, float(objective.units[i]))[1]
            continue
        there = objective if V == 1 else replace(objective, model=objective.model.subset(rows))
        out[rows, i] = _drop_point(there, optimum.theta[rows], optimum.value[rows], asked[rows], i)
    return out


def singular_limits(objective: learn.Objective, optimum: learn.Optimum, table: dict[str, Array]) -> None:
    """Fill in the other end of standard deviations and correlations of a singular covariance, by profile."""
    names = objective.hyperparameters
    inside = names.singular(optimum.limit)[0]
    for r in np.flatnonzero(inside & table["at_boundary"][0].astype(bool) & ~np.isnan(table["estimate"][0])):
        profile = Profile(objective, optimum, names.reported[r])
        estimate = float(table["estimate"][0, r])
        low, high = profile.ends(estimate, np.nan, DROP, names.natural(names.reported[r]))
        table["lower"][0, r], table["upper"][0, r] = low, high


def far_limits(objective: learn.Objective, optimum: learn.Optimum, table: dict[str, Array]) -> None:
    """Fill in the other end of what runs to an end of its support that is not zero, by profile."""
    names, estimate = objective.hyperparameters, table["estimate"][0]
    asked = table["at_boundary"][0].astype(bool) & ~np.isnan(estimate) & (estimate != 0)
    asked &= np.isnan(table["lower"][0]) | np.isnan(table["upper"][0])
    asked &= [name in names.names for name in names.reported]
    for r in np.flatnonzero(asked):
        unit = float(objective.units[names.index(names.reported[r])])
        profile = Profile(objective, optimum, names.reported[r])
        table["lower"][0, r], table["upper"][0, r] = profile.ends(float(estimate[r]), np.nan, DROP, unit)


def _drop_point(
    objective: learn.Objective, theta: Array, value: Array, free: Array, i: int, steps: int = 60
) -> Float[Array, "V"]:
    """The scale, by bracketing log s outwards from its natural size and the Illinois method (regula falsi)."""
    free, theta = free.copy(), theta.copy()
    free[:, i] = False

    def drop(log_s: Array) -> Array:
        theta[:, i] = np.exp(log_s)
        best = learn.maximise(objective, theta, free)
        theta[:] = best.theta  # the others set out from where they were best
        return value - best.value - DROP

    high = np.full(len(free), np.log(objective.units[i]))
    at_high = drop(high)
    low, at_low = high.copy(), at_high.copy()
    for _ in range(steps // 2):
        if (at_high > 0).all():
            break
        low, at_low = np.where(at_high > 0, low, high), np.where(at_high > 0, at_low, at_high)
        high = np.where(at_high > 0, high, high + 1)
        at_high = drop(high)
    for _ in range(steps):
        if (at_low < 0).all():
            break
        high, at_high = np.where(at_low < 0, high, low), np.where(at_low < 0, at_high, at_low)
        low = np.where(at_low < 0, low, low - 1)
        at_low = drop(low)
    bracketed = (at_high > 0) & (at_low < 0)  # where the data say nothing of a scale, its evidence never drops
    middle = high
    for _ in range(steps if bracketed.all() else 0):
        middle = low + (high - low) * at_low / (at_low - at_high)
        found = drop(middle)
        if np.abs(found).max() < 1e-8:
            break
        same_side = found * at_high > 0
        at_low = np.where(same_side, at_low / 2, at_high)
        low = np.where(same_side, low, high)
        high, at_high = middle, found
    return np.where(bracketed, np.exp(middle), np.inf)
