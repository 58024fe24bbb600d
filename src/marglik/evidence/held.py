# SPDX-License-Identifier: BSD-3-Clause
"""Close to the maximum of Laplace's evidence over dense columns, by steps with the curvature of the likelihood held.

With W held at a point w*, log p(y|w) is aᵀw − wᵀGw/2 and a constant, G = XᵀWX and a = Gw* + Xᵀ∂log p/∂η. For w = Tu,
T a diagonal of scales s_k, everything about the evidence is in C = (TGT + P)⁻¹ and u = CTa, with P the identity less
flat columns. Its derivatives in ρ = log s are

    g_k = |u_k|² − n_k + tr C_kk
    h_kl = 4 u_kᵀC_kl u_l + 2|C_kl|² − 2δ_kl (|u_k|² + tr C_kk)

and in the variance of a scale of zero, with b = a − Gw,

    (|b_k|² − tr (G − GTCTG)_kk) / 2.

What moves W adds −½ Σ_i h_i ∂W_i/∂ρ_k to g_k, with the leverages h_i = x_iᵀTCTx_i. One step maximises in ρ with that
slope held, and moves w to the mode it finds: Newton's step in w. Its fixed point is Laplace's maximum; without the
slope it would be that of penalised quasi-likelihood.

References
----------
Breslow & Clayton (1993), Journal of the American Statistical Association 88, 9.
Gu (1992), Journal of Computational and Graphical Statistics 1, 169 (steps in both at once).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marglik.columns import Dense, leverages, weighted_gram, written
from marglik.linalg import NotPositiveDefinite, cholesky, cholesky_inverse

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.likelihoods import Likelihood
    from marglik.model import LinearModel

FEWEST = 2000
"""No fewer rows stand for all."""
PER_COLUMN = 10
"""Nor fewer than this multiple of the columns."""
WORTH = 4
"""Where all rows are fewer than this multiple of those that stand for them, they are used at once."""
NEAR = 0.05
"""A step in ρ after which steps with W held have done their part."""
FAR = 0.2
"""The same where rows are many, or few stand for them: the search that follows costs less there."""
LAST = 0.1
"""The last step of Newton's method in ρ, as a share of the way: what it leaves is the square of that."""
MOST = 12
"""Steps with the same rows."""
FALLING = 0.3
"""A scale that is to fall by more, in ρ, is tried at zero."""
CHORDS = 4
"""Steps in w by the same H, which cost much less than another."""
SMALL = 1e-4
"""Gain in nats below which they end."""
INNER = 20
"""Steps in ρ with W held."""
PROBE = 1e-3
"""Difference in ρ that shows how the gradient bends as W moves."""


@dataclass(frozen=True, eq=False)
class Scales:
    """The diagonal T of the columns' scales, linear in θ: T = base + Σ_k s_k E_k.

    Parameters
    ----------
    base : (d,)
        1 on flat columns; what is given of others without a scale to learn.
    member : (k, d)
        E, whether a column has a scale.
    penalised : (d,)
        P, zero on flat columns.
    """

    base: Float[Array, "d"]
    member: Float[Array, "k d"]
    penalised: Float[Array, "d"]

    @classmethod
    def of(cls, model: LinearModel) -> Scales | None:
        """Those of a model all of whose columns are dense with at most one scale each; None for others."""
        if any(term.kernel or term.covaries for term in model.dense):
            return None
        k, names = model.n_prior_theta, model.hyperparameters
        if model.groupings or model.flat_in_theta or not all(h.even for h in list(names)[:k]):
            return None
        at = lambda theta: model.factors(theta, lambda t, x: t.factor(x), flat=1.0)[1].diagonal  # noqa: E731
        units = np.eye(len(names))[:k]
        with np.errstate(divide="ignore", invalid="ignore"):
            base = at(np.zeros(len(names)))
            member = np.array([at(unit) - base for unit in units]).reshape(k, len(base))
            several = np.arange(1.0, k + 1)
            linear = np.array_equal(at(several @ units), base + several @ member)
        if not linear or (np.count_nonzero(np.vstack([member, base]), axis=0) > 1).any():
            return None
        return cls(base, member, (np.arange(len(base)) >= model.columns.n_flat).astype(float))

    def diagonal(self, s: Float[Array, "k"]) -> Float[Array, "d"]:
        """T."""
        return self.base + s @ self.member


class Step(NamedTuple):
    """The evidence with W held at one s, its derivatives in ρ, and the mode."""

    value: float
    gradient: Float[Array, "k"]
    hessian: Float[Array, "k k"]
    u: Float[Array, "d"]
    C: Float[Array, "d d"]


@dataclass(frozen=True, eq=False)
class Held:
    """The evidence with W held."""

    scales: Scales
    G: Float[Array, "d d"]
    a: Float[Array, "d"]

    def at(self, s: Float[Array, "k"]) -> Step:
        """At one s."""
        T, E = self.scales.diagonal(s), self.scales.member != 0
        H = T[:, None] * self.G * T
        H.reshape(-1)[:: len(H) + 1] += self.scales.penalised
        L = cholesky(H)
        C = cholesky_inverse(L)
        u = C @ (T * self.a)
        value = float(T * self.a @ u) / 2 - float(np.log(L.diagonal()).sum())
        U = E * u
        own, kept = np.sum(U * u, axis=1), E @ C.diagonal()
        hessian = 4 * U @ C @ U.T + 2 * E @ (C * C) @ E.T - 2 * np.diag(own + kept)
        return Step(value, own - E.sum(axis=1) + kept, hessian, u, C)

    def traces(self, s: Float[Array, "k"]) -> Float[Array, "k"]:
        """tr C_kk."""
        return self.at(s).C.diagonal() @ (self.scales.member != 0).T

    def slope_in_variance(self, s: Float[Array, "k"], here: Step, k: int) -> float:
        """In that of a scale that is zero at s."""
        T, mine = self.scales.diagonal(s), self.scales.member[k]
        j = np.flatnonzero(mine)
        b = (self.a - self.G @ (T * here.u))[j] * mine[j]
        GT = self.G[j] * T * mine[j, None]
        left = self.G[j, j] @ mine[j] ** 2 - np.sum((GT @ here.C) * GT)
        return float(b @ b - left) / 2

    def maximised(
        self,
        s: Float[Array, "k"],
        here: Step,
        slope: Float[Array, "k"],
        free: Bool[Array, "k"],
        units: Float[Array, "k"],
    ) -> tuple[Float[Array, "k"], Step]:
        """The maximum over the free scales, zeros among them, with a slope in ρ that is held too."""
        for k in map(int, np.flatnonzero(free & (s == 0))):
            if self.slope_in_variance(s, here, k) > 0:
                s = np.where(np.arange(len(s)) == k, 0.1 * units, s)
                here = self.at(s)
        gone = 0.0
        for _ in range(INNER):
            moving = np.flatnonzero(free & (s > 0))
            if not len(moving):
                break
            step = ascent(here.hessian[np.ix_(moving, moving)], (here.gradient + slope)[moving])
            for k in map(int, moving[step < -FALLING]):
                without = np.where(np.arange(len(s)) == k, 0.0, s)
                there = self.at(without)
                if there.value > here.value and self.slope_in_variance(without, there, k) < 0:
                    s, here = without, there
                    break
            else:
                new = s.copy()
                new[moving] *= np.exp(step)
                there = self.at(new)
                if there.value + slope[moving] @ step < here.value - 1e-9 * abs(here.value):
                    step = step / 4
                    new[moving] = s[moving] * np.exp(step)
                    there = self.at(new)
                s, here = new, there
                length = np.abs(step).max()
                gone += length
                if length < LAST * gone:
                    break
        return s, here


def ascent(hessian: Float[Array, "k k"], gradient: Float[Array, "k"], radius: float = 1.0) -> Float[Array, "k"]:
    """Newton's step within the radius, curvatures taken as concave."""
    d, U = np.linalg.eigh(-hessian)
    size = np.maximum(np.abs(d), 1e-10 * max(np.abs(d).max(initial=0), 1e-100))
    step = U @ ((U.T @ gradient) / size)
    return step * min(1.0, radius / max(np.abs(step).max(initial=0), 1e-300))


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a dense model outside the Gaussian, or some of them: what a step needs."""

    X: Dense
    y: Float[Array, "n"]
    offset: Float[Array, "n"] | float
    multiplier: Float[Array, "n"] | float
    likelihood: Likelihood

    @classmethod
    def of(cls, model: LinearModel) -> Rows:
        """All of a model's."""
        offset = 0.0 if model.offset is None else model.offset
        return cls(model.columns.dense, np.asarray(model.rows.y, float), offset, model.multiplier, model.likelihood)

    @cached_property
    def some(self) -> Rows | None:
        """One of each run of rows, drawn with a fixed seed; None where there are too few to choose from."""
        n, d = self.X.shape
        m = max(FEWEST, PER_COLUMN * d)
        if n < WORTH * m:
            return None
        ends = np.linspace(0, n, m + 1).astype(int)
        index = np.random.default_rng(0).integers(ends[:-1], ends[1:])
        part = lambda v: v if np.ndim(v) == 0 else v[index]  # noqa: E731
        return Rows(
            written(self.X[index]),
            self.y[index],
            part(self.offset),
            part(self.multiplier),
            self.likelihood.at_rows(index),
        )

    def eta(self, w: Float[Array, "d"]) -> Float[Array, "n"]:
        """Xw + offset."""
        return self.X @ w + self.offset

    def derivatives(self, eta: Float[Array, "n"]) -> tuple[Array, Array, Array]:
        """First three derivatives of log p(y|η)."""
        d1, d2, d3 = self.likelihood.derivatives(self.y, eta, np.zeros(0))
        return d1 * self.multiplier, d2 * self.multiplier, d3 * self.multiplier

    def log_density(self, eta: Float[Array, "n"]) -> float:
        """Σ log p(y|η), less what depends on y alone."""
        return float(np.sum(self.likelihood.log_kernel(self.y, eta, np.zeros(0)) * self.multiplier))


def bend(
    scales: Scales, G: Float[Array, "d d"], s: Float[Array, "k"], w: Float[Array, "d"], rows: Rows, share: float
) -> Float[Array, "k k"]:
    """What ∂²/∂ρ² at the mode has beyond `Step.hessian`, as W moves with ρ: by a difference along each ρ_k.

    ``rows`` stand for ``share`` times as many.
    """

    def parts(G: Array, s: Array, w: Array) -> tuple[Array, Array, Array]:
        """tr C_kk, what moves W adds to the gradient, and ∂w/∂ρ."""
        T, E = scales.diagonal(s), scales.member != 0
        H = T[:, None] * G * T
        H.reshape(-1)[:: len(H) + 1] += scales.penalised
        C = cholesky_inverse(cholesky(H))
        drift = 2 * T[:, None] * (C @ (E * np.divide(w, T, out=np.zeros(len(T)), where=T != 0)).T)
        third = rows.derivatives(rows.eta(w))[2]
        z = share * ((third * leverages(T[:, None] * C * T, rows.X)) @ rows.X)
        return E @ C.diagonal(), drift.T @ z / 2, drift

    _, slope, drift = parts(G, s, w)
    weights, out = -rows.derivatives(rows.eta(w))[1], np.zeros((len(s), len(s)))
    for k in np.flatnonzero(s):
        there, moved = s * np.exp(PROBE * (np.arange(len(s)) == k)), w + PROBE * drift[:, k]
        change = -rows.derivatives(rows.eta(moved))[1] - weights
        new_trace, new_slope, _ = parts(G + share * weighted_gram(rows.X, change), there, moved)
        out[k] = (new_trace - Held(scales, G, G @ w).traces(there) + new_slope - slope) / PROBE
    return (out + out.T) / 2


class Approach(NamedTuple):
    """Where steps with W held have come to: scales, w, and G of the last point."""

    s: Float[Array, "k"]
    w: Float[Array, "d"]
    G: Float[Array, "d d"]


def approach(model: LinearModel, start: Float[Array, "k"], free: Bool[Array, "k"]) -> Approach | None:
    """From a start to close to the maximum: on some rows first where there are many; None where it does not suit."""
    scales = Scales.of(model)
    if scales is None or not model.likelihood.concave or model.likelihood.hyperparameters():
        return None
    rows = Rows.of(model)
    w = scales.diagonal(start) * model.start_weights()
    walk = _Walk(scales, start, free)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            here = Approach(start, w, np.zeros((0, 0)))
            if rows.some is None:
                return walk.on(rows, here, rows, NEAR)
            found = walk.on(rows.some, here, rows.some, FAR)
            closer = None if found is None else walk.towards_mode(rows, found, rows.some)
            return None if closer is None else walk.on(rows, closer, rows.some, FAR)
    except NotPositiveDefinite:
        return None


@dataclass(frozen=True, eq=False)
class _Walk:
    scales: Scales
    units: Float[Array, "k"]
    free: Bool[Array, "k"]

    def towards_mode(self, rows: Rows, here: Approach, few: Rows) -> Approach | None:
        """The same scales, with w closer to the mode of all rows, by steps with H of a few."""
        eta, G = rows.eta(here.w), here.G * (len(rows.y) / len(few.y))
        there = Held(self.scales, G, G @ here.w + rows.derivatives(eta)[0] @ rows.X).at(here.s)
        found = self._climbed(rows, here.s, there, here.w, eta, CHORDS // 2)
        return None if found is None else here._replace(w=found[0])

    def on(self, rows: Rows, here: Approach, few: Rows, near: float) -> Approach | None:
        """Steps on these rows until ρ rests; leverages from a few of them."""
        s, w = here.s, here.w
        eta, share = rows.eta(w), len(rows.y) / len(few.y)
        for _ in range(MOST):
            d1, d2, d3 = rows.derivatives(eta)
            G = weighted_gram(rows.X, -d2)
            held = Held(self.scales, G, G @ w + d1 @ rows.X)
            point, T = held.at(s), self.scales.diagonal(s)
            third = d3 if few is rows else few.derivatives(few.eta(w))[2]
            z = share * ((third * leverages(T[:, None] * point.C * T, few.X)) @ few.X)
            slope = self._slope(point, T, z)
            new, there = held.maximised(s, point, slope, self.free, self.units)
            found = self._climbed(rows, new, there, w, eta, CHORDS if few is not rows else 0)
            if found is None:
                return None
            w, eta = found
            both = (s > 0) & (new > 0)
            far = np.abs(np.log(new[both] / s[both])).max(initial=0)
            rest, s = far < near and np.array_equal(s > 0, new > 0), new
            if rest:
                return Approach(s, w, G)
        return None

    def _slope(self, here: Step, T: Float[Array, "d"], z: Float[Array, "d"]) -> Float[Array, "k"]:
        """z·∂w/∂ρ_k, with ∂w/∂ρ_k = 2TCE_ku; z is half the derivative of Σ h_i ∂²log p/∂η_i² in w."""
        return (self.scales.member != 0) @ (here.u * (here.C @ (T * z)))

    def _climbed(
        self, rows: Rows, s: Float[Array, "k"], there: Step, w: Float[Array, "d"], eta: Float[Array, "n"], chords: int
    ) -> tuple[Array, Array] | None:
        """From w towards the mode with W held, as far as the log joint density rises; then steps with the same H."""
        T, P = self.scales.diagonal(s), self.scales.penalised
        u, goal = np.divide(w, T, out=np.zeros(len(T)), where=T != 0), there.u
        before, fraction = rows.log_density(eta) - P @ u**2 / 2, 1.0
        while fraction > 1e-3:
            new = u + fraction * (goal - u)
            eta = rows.eta(T * new)
            value = rows.log_density(eta) - P @ new**2 / 2
            if value >= before - 1e-6 * abs(before):
                break
            fraction /= 4
        else:
            return None
        for _ in range(chords if fraction == 1 else 0):
            score = T * (rows.derivatives(eta)[0] @ rows.X) - P * new
            step = there.C @ score
            if score @ step < SMALL:
                break
            new = new + step
            eta = rows.eta(T * new)
        return T * new, eta
