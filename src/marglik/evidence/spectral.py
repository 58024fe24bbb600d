# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of one shared scale, and its global maximum for every target.

    log p(y|s, σ) = −½ [ (n − f) log 2π + log|aA + bI| + yᵀ(aA + bI)⁻¹y ] + const,    a = s², b = σ²

Given λ = b/a one of the two is at its maximum in closed form, so that the evidence becomes a function of log λ alone:
a grid brackets each of its maxima by the sign of the slope, Newton's method finishes. No start value, no grid edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.evidence.base import Evidence
from marglik.likelihoods import LOG_2PI
from marglik.posterior.base import SpectralPosterior

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.gaussian.bases import Ridged
    from marglik.gaussian.spectrum import Spectrum
    from marglik.model import LinearModel

Values = Any
"""A number, or an array with one for each target."""


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


class Profile(NamedTuple):
    """The evidence along λ, up to constants: g(S, t) − ½ Σ log(1 + d/λ) with t = log λ and S(λ) = λ yᵀ(A + λI)⁻¹y.

    ``g`` returns its value and first two total derivatives in t, given S and its own; ``slope`` the first alone.
    ``variances`` gives (a, b) at the maximum over what was profiled out. ``reach`` gives the λ below and above which no
    maximum can lie, given the smallest and the largest sum of squares that the noise may have to explain, and the
    smallest eigenvalue.
    """

    g: Callable[[Values, Values, Values, Values], tuple[Values, Values, Values]]
    slope: Callable[[Array, Array, Array], Array]
    variances: Callable[[Values, Values], tuple[Values, Values]]
    reach: Callable[[float, float, float], tuple[float, float]]


def _both_free(n: float) -> Profile:
    """b = S/n."""

    def g(S, S1, S2, t):
        r = S1 / S
        return -n / 2 * np.log(S), -n / 2 * r, -n / 2 * (S2 / S - r * r)

    return Profile(
        g,
        lambda S, S1, t: -n / 2 * (S1 / S),
        lambda S, lam: (S / n / lam, S / n),
        lambda low, high, d: (d * low / high, 0.0),
    )


def _noise_given(b: float) -> Profile:
    """b given, a = b/λ."""
    return Profile(
        lambda S, S1, S2, t: (-S / (2 * b), -S1 / (2 * b), -S2 / (2 * b)),
        lambda S, S1, t: -S1 / (2 * b),
        lambda S, lam: (b / lam, b + 0 * lam),
        lambda low, high, d: (d * b / high, d * high / b),
    )


def _scale_given(n: float, a: float) -> Profile:
    """a given, b = λa."""

    def g(S, S1, S2, t):
        e = np.exp(-t) / (2 * a)
        return -n / 2 * t - S * e, -n / 2 - (S1 - S) * e, -(S2 - 2 * S1 + S) * e

    return Profile(
        g,
        lambda S, S1, t: -n / 2 - (S1 - S) * (np.exp(-t) / (2 * a)),
        lambda S, lam: (a + 0 * lam, a * lam),
        lambda low, high, d: (low / n / a, high / n / a),
    )


def maxima(model: LinearModel, theta: Float[Array, "2"], free: Array) -> Float[Array, "V 2"]:
    """θ at the global maximum of every target over the free coordinates; zeros are exact."""
    spectrum = model.spectrum
    V, (scale, noise) = spectrum.response.n_targets, free.tolist()
    if not (scale or noise):
        return np.broadcast_to(theta, (V, 2)).copy()
    if not spectrum.rank or not (scale or theta[0]):  # noise alone
        sigma = np.sqrt(spectrum.total / spectrum.n_free) if noise else np.full(V, theta[1])
        return np.column_stack([np.full(V, 0.0 if scale else theta[0]), sigma])
    if scale and noise:
        profile = _both_free(spectrum.n_free)
    elif scale:
        profile = _noise_given(float(theta[1]) ** 2)
    else:
        profile = _scale_given(spectrum.n_free, float(theta[0]) ** 2)
    search = Search(spectrum, profile, scale, noise)
    with np.errstate(all="ignore"):  # a target without variance, and λ at its ends, are decided by comparison
        if V == 1:
            return np.sqrt([search.one()])
        return np.sqrt(np.concatenate([search.block(t) for t in spectrum.response.blocks()]))


STEP = 0.5
"""Of the grid in log λ where eigenvalues lie. Slopes are analytic for |Im log λ| < π, so little hides in between."""
COARSE = 5.0
"""Beyond, where the slope is α + βλ/(1 + γλ) below all eigenvalues and α/λ + β/λ² above, and changes its sign once."""
AROUND = np.linalg.inv(np.vander(np.arange(-3.0, 5.0)))
"""Takes slopes at eight neighbouring nodes to the polynomial through them, in steps from the fourth."""
NEAR = 2e-4
"""A step in log λ so short that Halley's method can take it as the last one; or Newton's, where it is `FAINT`."""
FAINT = 1e-8
NARROW = 1e-12
"""A bracket in log λ that needs no more halving."""


@dataclass(frozen=True)
class Search:
    """For the global maximum along λ.

    Every cell of a grid in which the slope changes from up to down holds a maximum; so may both ends, which are limits.

    Parameters
    ----------
    spectrum, profile
        The evidence.
    scale, noise
        Which of the two is free, and may be zero.
    """

    spectrum: Spectrum
    profile: Profile
    scale: bool
    noise: bool

    def one(self) -> tuple[float, float]:
        """(a, b) of a single target: in numbers, which NumPy's arrays of one would make several times slower."""
        rest, total = float(self.spectrum.rest[0]), float(self.spectrum.total[0])
        grid, fine = self._grid(rest if rest > 0 else total, total)
        S, S1, L1 = self.spectrum.basis.slopes(slice(0, 1), np.exp(grid))
        slope = self.profile.slope(rest + S[0], S1[0], grid) + L1
        up = slope > 0
        found: list[tuple[Values, ...]] = [(-math.inf, 0.0, total / self.spectrum.n_free)]
        found += self._ends(slice(0, 1), total)
        for i in np.nonzero(up[:-1] & ~up[1:])[0].tolist():
            (low, high), (f1, below) = grid[i : i + 2].tolist(), slope[i : i + 2].tolist()
            start, f3 = f1 / (f1 - below), None
            if i in fine:
                u, bend = _root((AROUND @ slope[i - 3 : i + 5]).tolist(), start)
                if 0 <= u <= 1:
                    start, f3 = u, bend
            found.append(self._climb(rest, low, low + (high - low) * start, high, f3))
        _, a, b = max(found, key=lambda end: end[0])
        return float(a), float(b)

    def block(self, t: slice) -> Float[Array, "V 2"]:
        """(a, b) of some of the targets."""
        rest, total = self.spectrum.rest[t], self.spectrum.total[t]
        most = float(total.max())
        grid, fine = self._grid(float(rest[rest > 0].min(initial=most)), most)
        S, S1, L1 = self.spectrum.basis.slopes(t, np.exp(grid))
        slope = self.profile.slope(rest[:, None] + S, S1, grid) + L1
        best = np.array([np.full_like(total, -np.inf), np.zeros_like(total), total / self.spectrum.n_free])
        for end in self._ends(t, total):
            best = np.where(end[0] > best[0], end, best)

        up = slope > 0
        row, cell = np.nonzero(up[:, :-1] & ~up[:, 1:])
        low, high, f1 = grid[cell], grid[cell + 1], slope[row, cell]
        start = f1 / (f1 - slope[row, cell + 1])
        around = np.clip(cell, 3, len(grid) - 5)[:, None] + np.arange(-3, 5)
        u, f3 = _root(AROUND @ slope[row[:, None], around].T, start)
        known = (cell >= fine.start) & (cell < fine.stop) & (u >= 0) & (u <= 1)
        start = low + (high - low) * np.where(known, u, start)
        f3 = np.where(known, f3, np.nan)
        found = self._climb_each(t.start + row, rest[row], low, start, high, f3)
        higher = found[0] > best[0, row]
        order = np.argsort(found[0, higher])  # where a target has several, the highest comes last and stays
        best[:, row[higher][order]] = found[:, higher][:, order]
        return best[1:].T

    def _ends(self, t: slice, total: Values) -> list[tuple[Values, Values, Values]]:
        """Value, a and b without signal and without noise, where these are limits."""
        n, ends = self.spectrum.n_free, []
        if self.scale:
            b = total / n if self.noise else self.profile.variances(total, 1.0 + 0 * total)[1]
            ends.append((-n / 2 * np.log(total) if self.noise else -total / (2 * b), 0 * total, b))
        if self.noise and self.spectrum.rank == n:
            m, log_det = self.spectrum.basis.unridged(t)
            m = np.reshape(m, np.shape(total))
            a = m / n if self.scale else self.profile.variances(total, 1.0 + 0 * total)[0]
            ends.append(((-n / 2 * np.log(m) if self.scale else -m / (2 * a)) - log_det / 2, a, 0 * m))
        return ends

    def _grid(self, least: float, most: float) -> tuple[Float[Array, "g"], range]:
        """log λ: fine where eigenvalues lie, coarse beyond, to where what is left out is below 1e-9 nats.

        Also the cells in the midst of its fine part.
        """
        first, last = self.spectrum.basis.bounds
        low, high = math.log(first) - 6, math.log(last) + 4
        bottom, top = low - 16, high + math.log(1e9 * self.spectrum.n_free)
        if most > 0:
            lowest, highest = self.profile.reach(least, most, first)
            bottom = min(bottom, math.log(lowest) - 8)
            top = max(top, math.log(highest) + 24 if highest else top)
        below, inside, above = np.arange(bottom, low, COARSE), np.arange(low, high, STEP), np.arange(high, top, COARSE)
        fine = range(len(below) + 3, len(below) + len(inside) - 4)
        return np.concatenate([below, inside, above]), fine

    def _climb(self, rest: float, low: float, t: float, high: float, f3: Values) -> tuple[Values, ...]:
        """Value, a and b at the maximum in a bracket, by Newton's method, safeguarded; ``f3`` if it is known."""
        new, f2_before = t, math.nan
        for _ in range(100):
            gone, t = new - t, new
            r = self.spectrum.basis.ridged(0, math.exp(t))
            S, f, f1, f2 = self._along(r, rest, t)
            if gone:
                f3 = (f2 - f2_before) / gone
            low, high = (t, high) if f1 > 0 else (low, t)
            new = t - f1 / f2
            if f2 < 0 and abs(new - t) < (FAINT if f3 is None else NEAR):
                break
            if not (f2 < 0 and low < new < high):
                new = (low + high) / 2
            if high - low < NARROW:
                break
            f2_before = f2
        return self._landed(r, S, (f, f1, f2, f3 or 0.0), t, new - t)

    def _climb_each(self, targets: Array, rest: Array, low: Array, t: Array, high: Array, f3: Array) -> Array:
        """The same for many brackets: value, a and b as rows. ``f3`` is NaN where it is not known."""
        out, todo = np.empty((3, len(t))), np.arange(len(t))
        new, f2_before = t, np.full_like(t, np.nan)
        for _ in range(100):
            gone, t = new - t, new
            r = self.spectrum.basis.ridged_each(targets, np.exp(t))  # type: ignore[attr-defined]
            S, f, f1, f2 = self._along(r, rest, t)
            f3 = np.where(gone != 0, (f2 - f2_before) / gone, f3)
            low, high = np.where(f1 > 0, t, low), np.where(f1 > 0, high, t)
            new = t - f1 / f2
            near = (f2 < 0) & (np.abs(new - t) < np.where(np.isnan(f3), FAINT, NEAR))
            stays = near | ((f2 < 0) & (new > low) & (new < high))
            new = np.where(stays, new, (low + high) / 2)
            out[:, todo] = self._landed(r, S, (f, f1, f2, np.nan_to_num(f3)), t, new - t)
            on = ~near & (high - low >= NARROW)
            if not on.any():
                break
            todo, targets, rest = todo[on], targets[on], rest[on]
            t, new, low, high, f3, f2_before = (v[on] for v in (t, new, low, high, f3, f2))
        return out

    def _along(self, r: Ridged, rest: Values, t: Values) -> tuple[Values, Values, Values, Values]:
        """S, and the evidence with its first two derivatives in t = log λ."""
        S = rest + r.S
        g, g1, g2 = self.profile.g(S, r.S1, r.S2, t)
        return S, g + r.L, g1 + r.L1, g2 + r.L2

    def _landed(self, r: Ridged, S: Values, f: tuple[Values, ...], t: Values, moved: Values) -> tuple[Values, ...]:
        """Value, a and b after a last step by Halley's method, whose error is of third order."""
        value, f1, f2, f3 = f
        moved = moved * (1 - f3 * moved / (2 * f2))
        value = value + (f1 + (f2 / 2 + f3 * moved / 6) * moved) * moved
        S = S + (r.S1 + r.S2 * moved / 2) * moved
        return value, *self.profile.variances(S, np.exp(t + moved))


def _root(polynomial: Sequence[Values], u: Values) -> tuple[Values, Values]:
    """The root next to u of a polynomial, highest power first, and the second derivative there."""
    for _ in range(3):
        p = d = s = 0.0 * u
        for c in polynomial:
            p, d, s = p * u + c, d * u + p, s * u + d
        u = u - p / d
    return u, 2 * s / STEP**2
