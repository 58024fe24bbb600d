# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of one shared scale, and its global maximum for every target.

    log p(y|s, σ) = −½ [ (n − f) log 2π + log|aA + bI| + yᵀ(aA + bI)⁻¹y ] + const,    a = s², b = σ²

Given λ = b/a one of the two is at its maximum in closed form, so that the evidence becomes a function of log λ alone:
a grid brackets each of its maxima by the sign of the slope, Newton's method finishes. No start value, no grid edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marglik.evidence.base import Evidence
from marglik.likelihoods import LOG_2PI
from marglik.posterior import SpectralPosterior

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel
    from marglik.spectrum import Spectrum


def evidence(model: LinearModel, theta: Float[Array, "V 2"]) -> Evidence:
    """Value, gradient and Hessian for all targets; a scale or the noise may be zero."""
    spectrum = model.spectrum
    s, sigma = theta.T
    V = len(theta)
    value, gradient, hessian = np.empty(V), np.empty((V, 2)), np.empty((V, 2, 2))
    for t in spectrum.response.blocks():
        a, b = s[t] ** 2, sigma[t] ** 2
        value[t], slope, curvature = _in_variances(spectrum, t, a, b)
        # ∂/∂s = 2s ∂/∂a,  ∂²/∂s² = 4a ∂²/∂a² + 2 ∂/∂a
        outer = 2 * theta[t]
        gradient[t] = outer * slope
        hessian[t] = outer[:, :, None] * outer[:, None, :] * curvature
        hessian[t, [0, 1], [0, 1]] += 2 * slope
    n, f = model.rows.n, spectrum.Q.shape[1]
    constant = model.log_row_scale - f * np.log(n) / 2 - model.log_volume
    return Evidence(value + constant, gradient, hessian, posterior=SpectralPosterior(model, s**2, sigma**2))


def _in_variances(spectrum: Spectrum, t: slice, a: Array, b: Array) -> tuple[Array, Array, Array]:
    """The log density of y less its constants, and derivatives in (a, b)."""
    d, rest = spectrum.basis.eigenvalues, spectrum.rest[t]
    null = spectrum.n_free - spectrum.rank
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = spectrum.basis.moments(t, a, b)
        v = np.multiply.outer(a, d) + b[:, None]
        dv, iv = d / v, 1 / v
        log_b, ib = (np.log(b), 1 / b) if null else (0 * b, 0 * b)
        value = -(spectrum.n_free * LOG_2PI + np.log(v).sum(axis=1) + null * log_b + q.m + rest * ib) / 2
        slope_a = -(dv.sum(axis=1) + q.da) / 2
        slope_b = -(iv.sum(axis=1) + null * ib + q.db - rest * ib**2) / 2
        aa = (np.einsum("vr,vr->v", dv, dv) - q.daa) / 2
        ab = (np.einsum("vr,vr->v", dv, iv) - q.dab) / 2
        bb = (np.einsum("vr,vr->v", iv, iv) + null * ib**2 - q.dbb - 2 * rest * ib**3) / 2
    slope = np.stack([slope_a, slope_b], axis=-1)
    return value, slope, np.stack([np.stack([aa, ab], -1), np.stack([ab, bb], -1)], axis=-1)


@dataclass(frozen=True)
class Profile:
    """The evidence along λ, up to constants: g(S, t) − ½ Σ log(1 + d/λ) with t = log λ and S(λ) = λ yᵀ(A + λI)⁻¹y.

    ``g`` returns its value and first two total derivatives in t, given S and its own. ``variances`` gives (a, b) at
    the maximum over what was profiled out. ``reach`` gives the λ below and above which no maximum can lie, given the
    smallest and the largest sum of squares that the noise may have to explain, and the smallest eigenvalue.
    """

    g: Callable[[Array, Array, Array, Array], tuple[Array, Array, Array]]
    variances: Callable[[Array, Array], tuple[Array, Array]]
    reach: Callable[[float, float, float], tuple[float, float]]


def _both_free(n: float) -> Profile:
    """b = S/n."""

    def g(S, S1, S2, t):
        r = S1 / S
        return -n / 2 * np.log(S), -n / 2 * r, -n / 2 * (S2 / S - r * r)

    return Profile(g, lambda S, lam: (S / n / lam, S / n), lambda low, high, d: (d * low / high, 0.0))


def _noise_given(b: float) -> Profile:
    """b given, a = b/λ."""
    return Profile(
        lambda S, S1, S2, t: (-S / (2 * b), -S1 / (2 * b), -S2 / (2 * b)),
        lambda S, lam: (b / lam, np.full_like(lam, b)),
        lambda low, high, d: (d * b / high, d * high / b),
    )


def _scale_given(n: float, a: float) -> Profile:
    """a given, b = λa."""

    def g(S, S1, S2, t):
        e = np.exp(-t) / (2 * a)
        return -n / 2 * t - S * e, -n / 2 - (S1 - S) * e, -(S2 - 2 * S1 + S) * e

    return Profile(g, lambda S, lam: (np.full_like(lam, a), a * lam), lambda low, high, d: (low / n / a, high / n / a))


def maxima(model: LinearModel, theta: Float[Array, "2"], free: Array) -> Float[Array, "V 2"]:
    """θ at the global maximum of every target over the free coordinates; zeros are exact."""
    spectrum = model.spectrum
    V = spectrum.response.n_targets
    if not free.any():
        return np.broadcast_to(theta, (V, 2)).copy()
    if not spectrum.rank or not (free[0] or theta[0]):  # noise alone
        sigma = np.sqrt(spectrum.total / spectrum.n_free) if free[1] else np.full(V, theta[1])
        return np.column_stack([np.full(V, 0.0 if free[0] else theta[0]), sigma])
    if free.all():
        profile = _both_free(spectrum.n_free)
    elif free[0]:
        profile = _noise_given(float(theta[1]) ** 2)
    else:
        profile = _scale_given(spectrum.n_free, float(theta[0]) ** 2)
    scale, noise = bool(free[0]), bool(free[1])
    with np.errstate(all="ignore"):  # a target without variance, and λ at its ends, are decided by comparison
        parts = [_block_maxima(spectrum, t, profile, scale, noise) for t in spectrum.response.blocks()]
    return np.sqrt(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _block_maxima(spectrum: Spectrum, t: slice, profile: Profile, scale: bool, noise: bool) -> Float[Array, "V 2"]:
    """(a, b) at the global maximum for one block of targets."""
    basis, d = spectrum.basis, spectrum.basis.eigenvalues
    rest, total, n = spectrum.rest[t], spectrum.total[t], spectrum.n_free
    grid = _grid(spectrum, t, profile)
    lam = np.exp(grid)
    explained, slope = basis.profile(t, lam)
    f1 = profile.g(rest[:, None] + explained, slope, slope, grid)[1] + basis.half_trace(lam)

    # Every bracket in which the slope changes from up to down holds a maximum; so may both ends, which are limits.
    up = f1 > 0
    row, cell = np.nonzero(up[:, :-1] & ~up[:, 1:])
    value, a, b = np.full(len(rest), -np.inf), np.zeros_like(rest), total / n
    if scale:  # no signal: a = 0
        b = b if noise else profile.variances(total, np.ones_like(total))[1]
        value = -n / 2 * np.log(total) if noise else -total / (2 * b)
    if noise and spectrum.rank == n:  # no noise: b = 0
        one = np.ones_like(rest)
        m = basis.moments(t, one, 0 * one).m
        at_zero = m / n if scale else profile.variances(total, one)[0]
        there = (-n / 2 * np.log(m) if scale else -m / (2 * at_zero)) - np.log(d).sum() / 2
        better = there > value
        value, a, b = np.where(better, there, value), np.where(better, at_zero, a), np.where(better, 0.0, b)
    if len(row):
        low, high = grid[cell], grid[cell + 1]
        at_low = f1[row, cell]
        start = low + (high - low) * at_low / (at_low - f1[row, cell + 1])
        for i in _one_a_row(row):
            r = row[i]
            targets = t if len(r) == len(rest) else r + t.start
            there, a_there, b_there = _polish(spectrum, targets, profile, low[i], start[i], high[i])
            better = there > value[r]
            won = r[better]
            value[won], a[won], b[won] = there[better], a_there[better], b_there[better]
    return np.stack([a, b], axis=1)


def _one_a_row(row: Array) -> list[slice | Array]:
    """Sorted row numbers cut into parts that name no row twice."""
    again = np.flatnonzero(row[1:] == row[:-1]) + 1
    if not len(again):
        return [slice(None)]
    first = np.ones(len(row), bool)
    first[again] = False
    rank = np.arange(len(row)) - np.maximum.accumulate(np.where(first, np.arange(len(row)), 0))
    return [np.flatnonzero(rank == k) for k in range(rank.max() + 1)]


def _grid(spectrum: Spectrum, t: slice, profile: Profile) -> Float[Array, "g"]:
    """log λ: fine where eigenvalues lie, coarse beyond, to where what is left out is below 1e-9 nats."""
    d, rest, total = spectrum.basis.eigenvalues, spectrum.rest[t], spectrum.total[t]
    low, high = math.log(d[0]) - 4, math.log(d[-1]) + 4
    bottom, top = low - 18, high + math.log(1e9 * spectrum.n_free)
    most = float(total.max())
    if most > 0:
        least = float(rest[rest > 0].min(initial=most))
        first, last = profile.reach(least, most, float(d[0]))
        bottom = min(bottom, math.log(first) - 8)
        top = max(top, math.log(last) + 24 if last else top)
    return np.concatenate([np.arange(bottom, low, 3.0), np.arange(low, high, 0.5), np.arange(high, top, 3.0)])


def _polish(
    spectrum: Spectrum, targets: slice | Array, profile: Profile, low: Array, start: Array, high: Array
) -> tuple[Array, Array, Array]:
    """Safeguarded Newton for the slope's zero in each target's bracket; returns value and variances there."""
    if len(start) == 1:  # the same arithmetic on scalars, which NumPy does several times faster than on arrays of one
        target = targets.start if isinstance(targets, slice) else targets[0]
        return tuple(map(np.atleast_1d, _newton(spectrum, target, profile, low[0], start[0], high[0])))  # type: ignore
    return _newton(spectrum, targets, profile, low, start, high)


def _newton(
    spectrum: Spectrum, targets: slice | Array, profile: Profile, low: Array, x: Array, high: Array
) -> tuple[Array, Array, Array]:
    basis, rest = spectrum.basis, spectrum.rest[targets]
    before = last = bend = 0.0 * x
    for attempt in range(100):
        lam = np.exp(x)
        S, S1, S2 = basis.quadratic(targets, lam)
        S = S + rest
        g, g1, g2 = profile.g(S, S1, S2, x)
        trace, trace1 = basis.half_traces(lam)
        slope, curvature = g1 + trace, g2 + trace1
        moved = -slope / curvature
        concave = curvature < 0
        if attempt:
            gone = x - before
            bend = (curvature - last) / (gone + (gone == 0))
        if abs(moved).max() < (1e-4 if attempt else 1e-8) and concave.all():
            break
        new = x + moved
        stays = concave & (new > low) & (new < high)
        if attempt > 5 or not stays.all():  # narrow the brackets, and halve them where Newton leaves
            low, high = np.where(slope > 0, x, low), np.where(slope > 0, high, x)
            new = np.where(stays, new, (low + high) / 2)
            if (high - low < 1e-12).all():
                break
        before, last, x = x, curvature, new
    # The last step, below 1e-4, is Halley's: with the third derivative its error is of fourth order.
    moved = moved * (1 - bend * moved / (2 * curvature))
    S = S + (S1 + S2 * moved / 2) * moved
    value = g + basis.half_log_det(lam) + (slope + (curvature / 2 + bend * moved / 6) * moved) * moved
    return value, *profile.variances(S, np.exp(x + moved))
