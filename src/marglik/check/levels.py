# SPDX-License-Identifier: BSD-3-Clause
"""Importance sampling level by level: thousands of small integrals with a few hundred draws each.

Given the border's weights v the levels of the largest grouping factor are independent,

    p(y|θ) = ∫ N(v) Π_g I_g(v) dv,    I_g(v) = ∫ p(y_g|u, v, θ) N(u) du
    I_g(v) ≈ (1/K) Σ_k p(y_g|u_gk, v, θ) N(u_gk) / q_g(u_gk)

with q_g a mixture of Student's t about the mode, which moves with v as in Laplace's method, and of one as wide as the
prior, so that no weight exceeds a few times the largest likelihood. The border is drawn outside, from Student's t about
the mode that quadrature finds for it: that of the joint density can be far off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from marglik.check.draws import COPIES, Estimate, efficiency, log_student, pareto_k, spread, student, students
from marglik.evidence.nodes import Levels
from marglik.evidence.quadrature import Marginal
from marglik.likelihoods import LOG_2PI
from marglik.linalg import cholesky, solve_lower

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.expansion import LinearExpansion

DF = 2.0
"""Degrees of freedom of Student's t of a level: few, so that weights vanish at the faces of the lattice's cube."""
POINTS = {1: 15, 2: 7, 3: 5}
"""Points of the quadrature that finds the border's mode, by coefficients of a level; one for more."""
FEW = 64
"""Draws a level for each draw of the border."""


@dataclass(frozen=True, eq=False)
class LevelDraws:
    """Draws of all levels, and how dense they lie there.

    Parameters
    ----------
    x : (K, m)
        Student's draws about a level's mode, in units of its Hessian, those of one copy after the other.
    z : (K', m)
        Draws as wide as the prior.
    """

    levels: Levels
    x: Float[Array, "K m"]
    z: Float[Array, "J m"]

    @classmethod
    def of(cls, levels: Levels, n: int, rng: np.random.Generator) -> LevelDraws:
        """About n draws, a quarter of them as wide as the prior."""
        m, each = levels.A.shape[1], max(n // (4 * COPIES), 1)
        x, z = students(3 * each, m, DF, rng), students(each, m, DF, rng)
        return cls(levels, x.reshape(-1, m), z.reshape(-1, m))

    @cached_property
    def copies(self) -> Float[Array, "c k"]:
        """Numbers of the draws that belong to each copy."""
        n, j = len(self.x), len(self.z)
        return np.concatenate(
            [np.arange(n).reshape(COPIES, -1), n + np.arange(j).reshape(COPIES, -1)],
            axis=1,
        )

    def log_weights(self, delta: Float[Array, "f"], there: LinearExpansion | None = None) -> Float[Array, "K q"]:
        """log p(y_g|u_gk, v, θ) N(u_gk) − log q_g(u_gk) at v = v̂ + δ; the density at ``there``'s θ, q at the mode's."""
        at, K = self.levels, len(self.x) + len(self.z)
        m = at.A.shape[1]
        A, X, base, own = _rows(at, there)
        shape = replace(at, x=np.zeros((K, m)), log_weights=np.zeros(K))
        out = np.empty((K, len(at.starts)))
        v = at.v + delta
        for part in shape.parts:
            g = part.levels
            C, mean = at.C[g], at.u[g] + at.E[g] @ delta
            spread = np.einsum("kj,qji->kqi", self.x, at.C_inverse[g])
            u = np.concatenate([mean + spread, np.broadcast_to(self.z[:, None], (len(self.z), *mean.shape))])
            scaled = np.einsum("kqi,qij->kqj", u - mean, C)
            near = log_student(scaled**2, 1, DF).sum(axis=2) + np.log(np.einsum("qmm->qm", C)).sum(axis=1)
            wide = log_student(u**2, 1, DF).sum(axis=2)
            q = np.logaddexp(np.log(len(self.x) / K) + near, np.log(len(self.z) / K) + wide)
            t = -np.sum(u**2, axis=2) / 2 - m * LOG_2PI / 2 - q
            for tile in part.tiles:
                codes = at.codes[tile] - g.start
                eta = base[tile] + X[tile] @ v + np.einsum("nm,knm->kn", A[tile], u[:, codes])
                likelihood = at.model.likelihood.at_rows(at.order[tile])
                with np.errstate(all="ignore"):
                    density = likelihood.log_kernel(at.y[tile], eta, own) * at.multiplier[tile]
                density = np.where(np.isnan(density), -np.inf, density)
                starts = at.starts[g] - tile.start if len(part.tiles) == 1 else np.zeros(1, int)
                t = t + np.add.reduceat(density, starts, axis=1)
            out[:, g] = t
        return out


def _rows(at: Levels, there: LinearExpansion | None) -> tuple[Array, Array, Array, Array]:
    """Columns in factor coordinates, what η has without weights, and the likelihood's θ; at another θ if given."""
    model, mode = at.model, at.mode if there is None else there
    L, T = model.factors(mode.theta, lambda term, theta: term.factor(theta), flat=1.0)
    A, X = at.Z @ L, T.right(at.border)
    base = np.zeros(len(at.order)) if model.offset is None else model.scaled(model.offset)[at.order]
    start = model.n_prior_theta
    stop = start + len(model.likelihood.hyperparameters())
    if model.flat_in_theta:
        base = base + model.flat_basis.Q[at.order] @ mode.theta[stop:]
    return A, X, base, mode.theta[start:stop]


@dataclass(frozen=True, eq=False)
class ByLevel:
    """The estimate for a model with a grouping factor.

    Parameters
    ----------
    levels
        The levels about the joint mode.
    fine
        Draws of the levels, for their own integrals.
    coarse
        Fewer of them for every draw of the border, others for each copy, so that its error shows in their scatter.
    outside : (c, s, f)
        Draws of the border in units of its posterior.
    delta, precision : (f,), (f, f)
        Where they lie about, less v̂, and the Cholesky factor of their precision.
    """

    levels: Levels
    fine: LevelDraws
    coarse: Sequence[LevelDraws]
    outside: Float[Array, "c s f"]
    delta: Float[Array, "f"]
    precision: Float[Array, "f f"]

    @classmethod
    def about(cls, mode: LinearExpansion, w: Float[Array, "p"], n: int, n_outside: int, seed: int) -> ByLevel:
        """With n draws a level, and n_outside draws of the border."""
        rng = np.random.default_rng(seed)
        levels = Levels.of(mode, w, 1)
        f = len(levels.v)
        fine, m = LevelDraws.of(levels, n, rng), levels.A.shape[1]
        near, wide = students(FEW - FEW // 4, m, DF, rng), students(FEW // 4, m, DF, rng)
        coarse = [LevelDraws(levels, x, z) for x, z in zip(near, wide, strict=True)] if f else []
        outside = student(max(n_outside // COPIES, 2), f, 4.0 + f, rng) if f else np.zeros((COPIES, 0, 0))
        at = Marginal.about(Levels.of(mode, w, POINTS.get(levels.A.shape[1], 1)) if f else levels)
        return cls(levels, fine, coarse, outside, at.delta, cholesky(at.totals.precision))

    @cached_property
    def log_second_order(self) -> Float[Array, "q"]:
        """Laplace's log I_g at v̂: its t_g1 + (m/2) log 2π."""
        at = self.levels
        m, f = at.A.shape[1], len(at.v)
        one = replace(at, x=np.zeros((1, m)), log_weights=np.zeros(1))
        return np.concatenate([nodes.log_integral for nodes in one.nodes(np.zeros(f))]) + m * LOG_2PI / 2

    @cached_property
    def _weights(self) -> Float[Array, "K q"]:
        return self.fine.log_weights(self.delta)

    @cached_property
    def gaps(self) -> Float[Array, "q"]:
        """By how much Laplace's log I_g is too high at v̂, in nats."""
        weights = self.fine.log_weights(np.zeros(len(self.delta))) if len(self.delta) else self._weights
        return self.log_second_order - _inner(weights)

    def estimate(self) -> Estimate:
        """log p(y|θ̂)."""
        at, weights = self.levels, self._weights
        value = float(_inner(weights).sum()) + self._constant(at.mode)
        k_hat, share = float(pareto_k(weights.T).max()), float(efficiency(weights.T).min())
        error = spread(np.array([_inner(weights[copy]).sum() for copy in self.fine.copies]))
        if len(self.delta):
            here = [_inner(draws.log_weights(self.delta)).sum() for draws in self.coarse]
            outer = self._outer(at.mode) - np.array(here)[:, None]
            each = logsumexp(outer, axis=1) - np.log(outer.shape[1])
            value += float(logsumexp(each) - np.log(len(each)))
            error = float(np.hypot(error, spread(each)))
            k_hat = max(k_hat, float(pareto_k(outer.reshape(1, -1))[0]))
            share = min(share, float(efficiency(outer.reshape(1, -1))[0]))
        return Estimate(value, error, k_hat, share)

    def at(self, there: LinearExpansion) -> float:
        """The estimate at another θ, all draws held: its differences are those of Fisher's identity."""
        if not len(self.delta):
            return float(_inner(self.fine.log_weights(np.zeros(0), there)).sum() + self._constant(there))
        outer = self._outer(there)
        return float(logsumexp(outer) + self._constant(there))

    def _constant(self, mode: LinearExpansion) -> float:
        return mode.rows.constant - self.levels.model.log_volume

    def _outer(self, there: LinearExpansion) -> Float[Array, "c s"]:
        """log Π I_g(v) N(v) / q(v) for each draw of the border."""
        at, (c, s, f) = self.levels, self.outside.shape
        x = self.outside.reshape(-1, f)
        deltas = self.delta + solve_lower(self.precision, x.T, transposed=True).T
        log_q = log_student(np.sum(x**2, axis=1), f, 4.0 + f) + np.log(self.precision.diagonal()).sum()
        out = np.empty(len(x))
        for i, delta in enumerate(deltas):
            v = at.v + delta
            prior = -at.border_penalty @ v**2 / 2 - at.border_penalty.sum() * LOG_2PI / 2
            out[i] = _inner(self.coarse[i // s].log_weights(delta, there)).sum() + prior - log_q[i]
        return out.reshape(c, s)


def _inner(weights: Float[Array, "K q"]) -> Float[Array, "q"]:
    return logsumexp(weights, axis=0) - np.log(len(weights))
