# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of fewer correlated weights than rows: by the Gram matrix, and what their covariance does to it.

With G = XᵀX, b = Xᵀy and c = yᵀy less the flat columns, Σ = LLᵀ of all weights and C = I + LᵀGL/σ²,

    −2 log p(y|θ) = ν log 2πσ² + log|C| + log|FᵀF| + φ,    φ = yᵀPy = (c − bᵀMb)/σ²,    M = LC⁻¹Lᵀ/σ²
    r = XᵀPy = (b − GMb)/σ²,    R = XᵀPX = (G − GMG)/σ²
    ∂_k log p(y|θ) = ½ ⟨rrᵀ − R, Σ̇_k⟩
    ∂_kl log p(y|θ) = ½ ⟨rrᵀ − R, Σ̈_kl⟩ − rᵀΣ̇_kRΣ̇_l r + ½ tr RΣ̇_kRΣ̇_l

The rows are looked at once, for G. A term says through `Term.moves` how Σ, Σ̇ and Σ̈ act on a matrix; for a field they
are products over its dimensions, which cost next to nothing beside the Cholesky factor of C. What is known along the
noise follows from the other scales, as in `mixed`.

References
----------
Harville (1977), JASA 72, 320. Lindstrom & Bates (1988), JASA 83, 1014.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular

from marglik.evidence.base import Evidence
from marglik.gaussian.levels import product
from marglik.likelihoods import LOG_2PI
from marglik.linalg import cholesky

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel
    from marglik.priors.base import Moves

EXACT = 1e-10
"""No noise is evaluated at a smaller share of the response's spread: y is then fitted exactly."""
FEWER = 0.5
"""Compact coordinates are worth a Gram matrix of their own up to this share of the weights."""


def evidence(model: LinearModel, theta: Float[Array, "k"]) -> Evidence:
    """Value, gradient and Hessian in θ; the noise must be positive."""
    if not theta[-1] > EXACT * model.response_scale:
        nothing = np.full(len(theta), np.nan)
        return Evidence(-np.inf, nothing, np.full((len(theta),) * 2, np.nan))
    there = model.compact(theta)
    at = At(there if there.n_weights <= FEWER * model.n_weights else model, np.asarray(theta, float))
    return Evidence(at.log_value, lambda: at.gradient, lambda: at.hessian)


def starts(model: LinearModel, theta: Float[Array, "k"], free: Array) -> Float[Array, "s k"]:
    """Scales of natural size, for each of several length scales; where all are free, with the best common factor."""
    size = model.response_scale
    share = size / np.sqrt(1 + len(model.dense))
    each = [t.starts(share) if t.kernel else share * t.units()[None] for t, _ in model.theta_starts()]
    even = np.array([h.even for h in model.hyperparameters])
    out = []
    for i in range(max(map(len, each))):
        there = np.where(free, np.append(np.concatenate([own[i % len(own)] for own in each]), size), theta)
        if free[even].all():
            at = At(model, there)
            there = there * np.where(even, np.sqrt(at.phi / at.freedom), 1.0)
        out.append(there)
    return np.array(out)


@dataclass(frozen=True, eq=False)
class At:
    """The evidence at one θ.

    Parameters
    ----------
    model, theta
        What is evaluated, in its own coordinates.
    """

    model: LinearModel
    theta: Float[Array, "k"]

    @cached_property
    def _reduced(self) -> tuple[Array, Array, float, float]:
        """G, b, c and log|FᵀF|."""
        known = self.model.__dict__.get("_field_sums")
        if known is None:
            border, p = self.model.level_sums.border, self.model.level_sums.n_penalised
            root = cholesky(border[p:-1, p:-1])
            half = solve_triangular(root, border[p:-1], lower=True)
            S = border - product(half.T, half)
            known = S[:p, :p], S[:p, -1], float(S[-1, -1]), 2 * float(np.log(root.diagonal()).sum())
            self.model.__dict__["_field_sums"] = known
        return known

    @property
    def freedom(self) -> float:
        """ν."""
        return self.model.rows.n_observations - self.model.n_flat

    @cached_property
    def moves(self) -> list[tuple[slice, int, Moves]]:
        """Of each term: its weights, the position of its first coordinate of θ, and its covariance."""
        out, first = [], 0
        for term, i in self.model.theta_starts():
            if not term.flat:
                own = self.theta[i : i + len(term.hyperparameters())]
                out.append((slice(first, first + term.n_weights), i, term.moves(own)))
                first += term.n_weights
        return out

    def _halved(self, X: Float[Array, "r p"]) -> Float[Array, "r q"]:
        """XL."""
        return np.hstack([own.half(X[:, place]) for place, _, own in self.moves])

    @cached_property
    def _factored(self) -> tuple[Array, Array, Array]:
        """The Cholesky factor of C, and LᵀG/σ and Lᵀb/σ² divided by it."""
        G, b, _, _ = self._reduced
        sigma = self.theta[-1]
        half = self._halved(G)
        C = self._halved(np.ascontiguousarray(half.T)).T / sigma**2
        C[np.diag_indices_from(C)] += 1
        root = cholesky(C)
        z = solve_triangular(root, self._halved(b[None])[0] / sigma**2, lower=True, check_finite=False)
        return root, half, z

    @cached_property
    def phi(self) -> float:
        """yᵀPy."""
        return self._reduced[2] / self.theta[-1] ** 2 - float(self._factored[2] @ self._factored[2])

    @cached_property
    def log_value(self) -> float:
        """log p(y|θ)."""
        log_det = 2 * float(np.log(self._factored[0].diagonal()).sum()) + self._reduced[3]
        gaussian = self.freedom * (LOG_2PI + 2 * np.log(self.theta[-1])) + log_det + self.phi
        return -gaussian / 2 - self.model.log_volume + self.model.log_row_scale

    @cached_property
    def _projected(self) -> tuple[Array, Array]:
        """r and R."""
        (G, b, _, _), (root, half, z), sigma = self._reduced, self._factored, self.theta[-1]
        Z = solve_triangular(root, half.T, lower=True, check_finite=False) / sigma**2
        R = product(Z.T, Z)
        np.subtract(G / sigma**2, R, out=R)
        return b / sigma**2 - Z.T @ z, R

    @cached_property
    def _first(self) -> tuple[Array, Array]:
        """∂ℓ and ∂φ, the noise held."""
        r, R = self._projected
        slope, pull = np.zeros(len(self.theta) - 1), np.zeros(len(self.theta) - 1)
        for place, i, own in self.moves:
            up = own.inner(np.multiply.outer(r[place], r[place]))
            slope[i : i + len(up)], pull[i : i + len(up)] = (up - own.inner(R[place, place])) / 2, -up
        return slope, pull

    @cached_property
    def _values(self) -> Array:
        """Of scales; 0 for what is no scale."""
        even = np.array([h.even for h in self.model.hyperparameters])
        return np.where(even, self.theta, 0.0)[:-1]

    @cached_property
    def gradient(self) -> Float[Array, "k"]:
        """A factor c of all scales moves ℓ by −ν log c − φ/2c² alone (Euler), which gives the noise's."""
        slope, _ = self._first
        return np.append(slope, (self.phi - self.freedom - self._values @ slope) / self.theta[-1])

    @cached_property
    def _second(self) -> Float[Array, "k k"]:
        """∂²ℓ, the noise held."""
        r, R = self._projected
        out = np.zeros((len(self.theta) - 1,) * 2)
        turned = []
        for place, i, own in self.moves:
            bends = own.inner_second(np.multiply.outer(r[place], r[place]) - R[place, place])
            out[i : i + len(bends), i : i + len(bends)] += bends / 2
            turned += [
                (i + k, place, own.times(k, R[:, place]), own.times(k, r[None, place])[0]) for k in range(len(bends))
            ]
        for k, one, RS, Sr in turned:
            for m, other, RT, Tr in turned:
                out[k, m] += float(np.einsum("ij,ji->", RS[other], RT[one])) / 2 - Sr @ R[one, other] @ Tr
        return out

    @cached_property
    def hessian(self) -> Float[Array, "k k"]:
        """And its row, by the same relation."""
        (slope, pull), H, sigma, values = self._first, self._second, self.theta[-1], self._values
        even = np.array([h.even for h in self.model.hyperparameters])[:-1]
        row = (pull - np.where(even, slope, 0.0) - H @ values) / sigma
        corner = (-2 * self.phi - values @ pull) / sigma
        corner = (corner - self.gradient[-1] - values @ row) / sigma
        return np.block([[H, row[:, None]], [row[None], np.array([[corner]])]])
