# SPDX-License-Identifier: BSD-3-Clause
"""Importance sampling level by level, for one grouping factor: many small integrals with draws of their own.

Given the border's weights v the levels are independent, and

    p(y|θ) = ∫ N(v) Π_g I_g(v) dv ≈ (1/J) Σ_j N(v_j) Π_g Î_g(v_j) / q(v_j)
    Î_g(v) = (1/K) Σ_k exp t_gk,    t_gk = Σ_{i∈g} ℓ_i(η_ik) − |u_gk|²/2 − (m/2) log 2π − log q_g(u_gk)
    u_gk = û_g + E_g(v − v̂) + C_g⁻ᵀx_gk,    η_ik = a_iᵀu_gk + x_iᵀv + o_i

about the mode and its negative Hessian, as in `marglik.evidence.quadrature`. The x_gk are the same for every v_j, so
that what errs in Î_g errs alike for all of them: the product over levels does not scatter with v. Errors of different
levels are independent, and so is that of the v_j; their squares add up. Where no weights are left on the border
(fixed effects maximised, no dense columns), the product of the Î_g is all there is.

The coordinates of x_gk have Student's t with 4 degrees of freedom, whose quantile is known in closed form (Shaw 2006).
v is drawn from a multivariate t about the mode of what quadrature leaves of the levels.

References
----------
Shaw (2006), Journal of Computational Finance 9, 37.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from marglik import pareto
from marglik.evidence import draws
from marglik.evidence.clouds import (
    ROUNDING,
    Cloud,
    Estimate,
    Groups,
    Weighed,
    added,
    assembled,
    effective,
    factors,
    scatter,
)
from marglik.evidence.nodes import Levels
from marglik.evidence.quadrature import Marginal
from marglik.likelihoods import LOG_2PI
from marglik.linalg import cholesky, cholesky_inverse

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.expansion import LinearExpansion

RUNS = 8
ENTRIES = 1 << 18
"""Rows times draws that are computed at a time."""
TAILS = 256
"""Levels whose tails are looked at at a time."""
SCALES = (0.8, 1.0, 1.25, 1.6, 2.0)
PILOT_DRAWS, PILOT_SCALE = 64, 1.25
POINTS = {1: 9, 2: 5, 3: 3}
"""Quadrature points a dimension of a level, to see where the border's weights lie."""


def t4(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Quantiles of Student's t with 4 degrees of freedom: ±2√(cos(⅓ arccos √a)/√a − 1), a = 4u(1−u)."""
    root = np.sqrt(4 * u * (1 - u))
    return np.copysign(2 * np.sqrt(np.maximum(np.cos(np.arccos(root) / 3) / root - 1, 0.0)), u - 0.5)


def log_t4(x: Float[Array, "*n m"], scale: Any) -> Float[Array, "*n"]:
    """log Π_d (3/8s) (1 + x_d²/4s²)^(−5/2)."""
    return np.sum(np.log(0.375 / scale) - 2.5 * np.log1p((x / scale) ** 2 / 4), axis=-1)


@dataclass(frozen=True, eq=False)
class LevelCloud(Cloud):
    """Draws of every level, and of the border.

    Parameters
    ----------
    levels
        The mode, and rows level by level.
    u : (q, K, m)
        u_gk at v̂, run by run.
    log_q : (q, K)
        log q_g(u_gk).
    v, log_q_v : (R, J, f), (R, J)
        Draws of the border and their density, run by run.
    centre : (f,)
        The v at which u is as given.
    """

    levels: Levels
    u: Float[Array, "q K m"]
    log_q: Float[Array, "q K"]
    v: Float[Array, "R J f"]
    log_q_v: Float[Array, "R J"]
    centre: Float[Array, "f"]

    @classmethod
    def about(cls, mode: LinearExpansion, w: Float[Array, "p"], n: int, seed: int) -> LevelCloud:
        """About a mode: n draws a level; n/4 of them for each of 4√n draws of the border, if there is one."""
        rng = np.random.default_rng(seed)
        m = mode.neg_hessian.cross.shape[1]
        marginal = Marginal.about(Levels.of(mode, w, POINTS.get(m, 1)))
        levels, f = marginal.levels, len(marginal.delta)
        outer = 2 ** int(np.ceil(np.log2(n) / 2)) * 4 // RUNS
        each = n // (4 * RUNS) if f else n // RUNS
        centre = levels.v + marginal.delta
        middle = levels.u + levels.E @ marginal.delta
        back, log_det = levels.C_inverse.transpose(0, 2, 1), np.log(np.einsum("qmm->qm", levels.C)).sum(axis=1)

        def cloud(x: Array, scale: Any, v: Array, log_q_v: Array) -> LevelCloud:
            u = middle[:, None] + np.einsum("qij,qkj->qki", back, x)
            return cls(levels, u, log_t4(x, scale) + log_det[:, None], v, log_q_v, centre)

        shape = len(middle), -1, m
        at_centre = centre[None, None], np.zeros((1, 1))
        x = PILOT_SCALE * t4(draws.lattice(PILOT_DRAWS, m, len(middle), rng))
        t = cloud(x, PILOT_SCALE, *at_centre).terms(mode.theta, centre)
        second = [logsumexp(2 * t + log_t4(x, PILOT_SCALE) - log_t4(x, s), axis=1) for s in SCALES]
        scale = np.array(SCALES)[np.argmin(second, axis=0)][:, None, None]
        x = scale * t4(draws.lattice(each, m, len(middle) * RUNS, rng)).reshape(shape)
        if not f:
            return cloud(x, scale, *at_centre)

        root = cholesky(cholesky_inverse(marginal.half))
        half = np.log(marginal.half.diagonal()).sum()

        def border(q: draws.Student, n: int, runs: int) -> tuple[Array, Array, Array]:
            z = q.of(draws.shifted(draws.net(n, f + 1, rng), runs, rng))
            square = np.sum(z**2, axis=-1)
            return centre + z @ root.T, q.log_density(square, f) + half, square

        v, log_q_v, square = border(draws.PILOT, 32, 1)
        few = cloud(x[:, :: max(x.shape[1] // 64, 1)], scale, v, log_q_v).at(mode.theta)
        v, log_q_v, _ = border(draws.best(few.outer.reshape(-1), square.reshape(-1), f), outer, RUNS)
        return cloud(x, scale, v, log_q_v)

    def at(self, theta):
        return LevelsWeighed(self, np.asarray(theta, float))

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Levels a few at a time, and their rows."""
        ends, first = np.append(self.levels.starts[1:], len(self.levels.order)), 0
        step = max(ENTRIES // self.u.shape[1], 1)
        while first < len(ends):
            start = int(self.levels.starts[first])
            last = max(int(np.searchsorted(ends, start + step, side="right")), first + 1)
            yield slice(first, last), slice(start, int(ends[last - 1]))
            first = last

    def eta(
        self, theta: Float[Array, "k"], v: Float[Array, "f"]
    ) -> Iterator[tuple[slice, slice, Float[Array, "n K"], Float[Array, "q K m"]]]:
        """Levels, their rows, η there, and the draws of u."""
        at, model = self.levels, self.levels.model
        L, T = factors(model, theta)
        fixed = model.at(np.zeros(model.n_weights), theta).rows.eta[at.order] + at.border @ T.right(v, True)
        own, shift = at.Z @ L, at.E @ (v - self.centre)
        for part, rows in self.parts():
            u = self.u[part] + shift[part, None]
            codes = at.codes[rows] - part.start
            eta = np.repeat(fixed[rows, None], u.shape[1], axis=1)
            for d in range(u.shape[2]):
                eta += own[rows, d, None] * u[codes, :, d]
            yield part, rows, eta, u

    def terms(self, theta: Float[Array, "k"], v: Float[Array, "f"]) -> Float[Array, "q K"]:
        """t_gk."""
        at, out = self.levels, np.empty(self.log_q.shape)
        own = theta[at.model.n_prior_theta :][: len(at.own)]
        with np.errstate(all="ignore"):
            for part, rows, eta, u in self.eta(theta, v):
                likelihood = at.model.likelihood.at_rows(at.order[rows, None])
                kernel = likelihood.log_kernel(at.y[rows, None], eta, own) * at.multiplier[rows, None]
                sums = np.add.reduceat(kernel, at.starts[part] - rows.start, axis=0)
                out[part] = sums - np.sum(u**2, axis=2) / 2 - u.shape[2] * LOG_2PI / 2 - self.log_q[part]
        return np.where(np.isnan(out), -np.inf, out)


@dataclass(frozen=True, eq=False)
class LevelsWeighed(Weighed):
    """Draws of every level at one θ."""

    cloud: LevelCloud
    theta: Float[Array, "k"]

    @property
    def _v(self) -> Float[Array, "RJ f"]:
        return self.cloud.v.reshape(self.cloud.log_q_v.size, self.cloud.v.shape[-1])

    @cached_property
    def _inner(self) -> tuple[Array, Array]:
        """log Î_g(v_j), and by run the log of their ratio to it: (RJ, q), (RJ, q, R)."""
        sums, ratios = [], []
        for v in self._v:
            t = self.cloud.terms(self.theta, v)
            total = logsumexp(t, axis=1)
            sums.append(total - np.log(t.shape[1]))
            ratios.append(logsumexp(t.reshape(len(t), RUNS, -1), axis=2) - total[:, None])
        return np.array(sums), np.array(ratios)

    @cached_property
    def outer(self) -> Float[Array, "R J"]:
        """Log weights of the border's draws."""
        at, v = self.cloud.levels, self._v
        prior = -(v**2 @ at.border_penalty + at.border_penalty.sum() * LOG_2PI) / 2
        return (self._inner[0].sum(axis=1) + prior).reshape(self.cloud.log_q_v.shape) - self.cloud.log_q_v

    @property
    def _rest(self) -> float:
        model = self.cloud.levels.model
        return float(model.at(np.zeros(model.n_weights), self.theta).rows.constant - model.log_volume)

    @property
    def log_value(self):
        return float(logsumexp(self.outer) - np.log(self.outer.size)) + self._rest

    @cached_property
    def weights(self) -> Float[Array, "RJ"]:
        """Those of the border's draws; they sum to one."""
        return np.exp(self.outer - logsumexp(self.outer)).reshape(-1)

    @cached_property
    def gradient(self):
        at, model = self.cloud.levels, self.cloud.levels.model
        rows_of = model.at(np.zeros(model.n_weights), self.theta).rows
        L, T = factors(model, self.theta)
        L_bar, T_bar, own, by_row = np.zeros_like(L), None, rows_of.constant_slopes, np.zeros(len(at.order))
        for weight, v in zip(self.weights, self._v, strict=True):
            t = self.cloud.terms(self.theta, v)
            c = weight * np.exp(t - logsumexp(t, axis=1, keepdims=True))
            slopes = np.zeros(len(at.order))
            for part, rows, eta, u in self.cloud.eta(self.theta, v):
                codes, here = at.codes[rows] - part.start, model.likelihood.at_rows(at.order[rows, None])
                share = c[part][codes] * at.multiplier[rows, None]
                d1 = np.where(share > 0, share * here.derivatives(at.y[rows, None], eta, rows_of.own)[0], 0.0)
                L_bar += np.einsum("nk,ni,nkj->ij", d1, at.Z[rows], u[codes], optimize=True)
                slopes[rows] = d1.sum(axis=1)
                each = here.theta_derivatives(at.y[rows, None], eta, rows_of.own)
                own = own + np.array([np.sum(np.where(share > 0, share * d, 0.0)) for d, _, _ in each])
            bar = T.on_pattern((slopes[None] @ at.border, v[None]))
            T_bar = bar if T_bar is None else added(T_bar, bar)
            by_row[at.order] += slopes
        return assembled(model, self.theta, L_bar, T_bar, own, by_row)

    @cached_property
    def share(self):
        """The least of the border's and of a level's."""
        v = self._v[int(np.argmax(self.weights))]
        inside = float(effective(self.cloud.terms(self.theta, v)).min(initial=1.0))
        return min(inside, float(effective(self.outer.reshape(-1))))

    @cached_property
    def estimate(self):
        at, q = self.cloud.levels, self.cloud.levels.model.groupings[0].n_levels
        sums, ratios = self._inner
        log_value, error, k_hat = np.zeros(q), np.zeros(q), np.full(q, -np.inf)
        log_value[at.present] = self.weights @ sums
        runs = np.einsum("j,jqr->qr", self.weights, np.exp(ratios))  # shares of the runs, which sum to one
        error[at.present] = runs.std(axis=1, ddof=1) * np.sqrt(RUNS)
        t = self.cloud.terms(self.theta, self._v[int(np.argmax(self.weights))])
        few = range(0, len(t), TAILS)
        k_hat[at.present] = np.concatenate([pareto.shape(t[i : i + TAILS]) for i in few])
        total, worst = self.log_value, float(k_hat.max(initial=-np.inf))
        squares = [*(error**2), (ROUNDING * total) ** 2]
        if self.outer.size > 1:
            squares.append(float(scatter(self.outer)) ** 2)
            worst = max(worst, float(pareto.shape(self.outer.reshape(-1))))
        return Estimate(total, float(np.sqrt(np.sum(squares))), worst, Groups(log_value, error, k_hat))
