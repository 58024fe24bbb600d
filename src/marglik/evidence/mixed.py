# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of Gaussian mixed models, with gradient and Hessian.

In units of the noise, y has covariance V = I + Σ_c Z_c (I ⊗ L_c L_cᵀ) Z_cᵀ, with one component c a grouping factor or
a scale of dense columns. With flat columns F, P = V⁻¹ − V⁻¹F(FᵀV⁻¹F)⁻¹FᵀV⁻¹ and ν = n − f,

    −2 log p(y|θ) = ν log 2πσ² + yᵀPy/σ² + log|V| + log|FᵀV⁻¹F|                                       (REML)

L is linear in θ: the k-th coordinate moves V by V_k = Z(I ⊗ Σ̇_k)Zᵀ with Σ̇_k = T_kLᵀ + LT_kᵀ, so that

    ∂_k yᵀPy = −yᵀPV_kPy,    ∂_k log|V| + … = tr PV_k
    ∂_kl yᵀPy = 2 yᵀPV_kPV_lPy − yᵀPV_klPy,    ∂_kl log|V| + … = tr PV_kl − tr PV_kPV_l

All of it is in r = ZᵀPy and Q = ZᵀPZ, which stay finite where L is singular. The inner grouping factor is eliminated
level by level, with A = ZᵀZ, G = (I + AΣ)⁻¹ and B its products with the border: ZᵀP₀Z = GA, ZᵀP₀X = GB, and what is
left of the border is XᵀP₀X = W + Σ_g B_gᵀA_g⁻G_gB_g, W its scatter within levels: sums of positive parts, so that
eliminating levels loses no digits where their scale is large. Maximised flat weights (ML) leave F out of log|…|, and
then ν = n.

References
----------
Harville (1977), JASA 72, 320. Lindstrom & Bates (1988), JASA 83, 1014. Bates, Mächler, Bolker & Walker (2015), J. Stat.
Softw. 67(1), §3. Rao (1971), J. Multivariate Anal. 1, 257 (MINQUE, for the start).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from marglik.evidence.base import Evidence
from marglik.projection import Moments, Projection

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.levels import Component
    from marglik.model import LinearModel

EXACT = 1e-10
"""No noise is evaluated at a smaller share of the response's spread: y is then fitted exactly."""
LEAST = 1e-2
"""No scale starts at a smaller share of its natural size: learning would have to find its way back."""


def _tangents(c: Component, L: Float[Array, "m m"]) -> Float[Array, "k m m"]:
    """Σ̇_k = T_kLᵀ + LT_kᵀ."""
    TL = c.templates @ L.T
    return TL + TL.transpose(0, 2, 1)


def evidence(model: LinearModel, theta: Float[Array, "k"]) -> Evidence:
    """Value, gradient and Hessian in θ; a factor may be singular, the noise must be positive."""
    at = Projection.at(model, theta) if theta[-1] > EXACT * model.response_scale else None
    if at is None or not np.isfinite(at.log_value):
        nothing = np.full(len(theta), np.nan)
        return Evidence(-np.inf, nothing, np.full((len(theta),) * 2, np.nan), posterior=at)
    derivatives = _Derivatives(at)
    return Evidence(at.log_value, lambda: derivatives.gradient, lambda: derivatives.hessian, posterior=at)


class _Derivatives:
    """In θ, each computed when asked for."""

    def __init__(self, at: Projection):
        self.at = at
        tangents = [_tangents(c, L) for c, L in zip(at.model.components, at.factors, strict=True)]
        self.moments = Moments(at, tangents)

    @cached_property
    def coordinates(self) -> Array:
        """Position in θ of each coordinate of the components; −1 where it is not learned."""
        return np.concatenate([np.zeros(0, int), *(c.coordinates for c in self.at.model.components)])

    @cached_property
    def _first(self) -> tuple[Array, Array, Array]:
        """Along the components: their values, ∂ℓ, and ∂φ for φ = yᵀPy/σ²; in the units of y, the noise held."""
        sigma, (p, t) = self.at.theta[-1], self.moments.first
        values = np.append(self.at.theta, 1.0)[self.coordinates]
        return values, (p / sigma**2 - t) / 2 / sigma, -p / sigma**3

    @cached_property
    def gradient(self) -> Float[Array, "k"]:
        """ℓ depends on the scale of (θ, σ) through −ν log c − φ/2c² alone (Euler): this gives the noise's slope."""
        values, slope, _ = self._first
        theta, kept = self.at.theta, self.coordinates >= 0
        phi = self.at.quadratic / theta[-1] ** 2
        out = np.zeros(len(theta))
        out[self.coordinates[kept]] = slope[kept]
        out[-1] = (phi - self.at.freedom - values @ slope) / theta[-1]
        return out

    @cached_property
    def hessian(self) -> Float[Array, "k k"]:
        """And its row, by the same relation."""
        values, slope, slope_phi = self._first
        theta, kept = self.at.theta, self.coordinates >= 0
        sigma, there = theta[-1], self.coordinates[kept]
        H = _curvature(self.moments, sigma)
        row = (slope_phi - slope - H @ values) / sigma
        corner = (-2 * self.at.quadratic / sigma**2 - values @ slope_phi) / sigma
        out = np.zeros((len(theta), len(theta)))
        out[np.ix_(there, there)] = H[np.ix_(kept, kept)]
        out[-1, there] = out[there, -1] = row[kept]
        out[-1, -1] = (corner - self.gradient[-1] - values @ row) / sigma
        return out


def _curvature(moments: Moments, sigma: float) -> Float[Array, "k k"]:
    """Second derivatives of ℓ along θ in the units of y, in the order of the components."""
    q, K = moments.second
    bend_p, bend_t = np.zeros_like(q), np.zeros_like(K)
    for c, place, (R, Q) in zip(moments.at.model.components, moments.places, moments.totals, strict=True):
        # Σ̈_kl = T_kT_lᵀ + T_lT_kᵀ
        for out, X in ((bend_p, R), (bend_t, Q)):
            out[place, place] = 2 * np.einsum("kij,lhj,ih->kl", c.templates, c.templates, X)
    return -((2 * q - bend_p) / sigma**2 + bend_t - K) / 2 / sigma**2


def starts(model: LinearModel, theta: Float[Array, "k"], free: Array) -> Float[Array, "1 k"]:
    """The better of two: scales of natural size, and the quadratic estimate of least variance around them (MINQUE)."""
    nu = model.rows.n_observations - model.n_flat
    size = np.sqrt(model.level_sums.border[-1, -1] / max(nu, 1)) or 1.0
    units = np.concatenate([term.units() for term in model.prior])
    if not free[-1] and theta[-1] == 0:
        raise ValueError(
            "sd(noise) is held at zero, but the evidence of a mixed model is computed for a positive one. Hold it at a "
            "small share of the response's spread."
        )
    natural = np.where(free, np.append(units * size / np.sqrt(1 + len(model.components)), size), theta)
    if not free.any():
        return natural[None]
    at = Projection.at(model, natural)
    if free.all():
        at = at.rescaled(np.sqrt(at.quadratic / at.freedom) / natural[-1])
        natural = at.theta
    estimate = np.where(free, _minque(at), natural)
    positive = np.array([h.support.lower == 0 for h in model.hyperparameters])
    estimate = np.where(positive, np.maximum(np.abs(estimate), LEAST * natural), estimate)
    return (estimate if Projection.at(model, estimate).log_value > at.log_value else natural)[None]


def _minque(at: Projection) -> Float[Array, "k"]:
    """θ from the unbiased quadratic estimate of all variances and covariances, made positive definite.

    With y ~ N(Fβ, bI + Σ u_kV_k): E yᵀPV_kPy = b tr(PV_kP) + Σ_l u_l tr(PV_kPV_l), and the same with I for V_k.
    """
    model, parts = at.model, at.model.components
    pairs = [np.argwhere(np.triu(_pattern(c))) for c in parts]
    directions = [
        np.array([_unit(c.m, i, j) for i, j in p]).reshape(-1, c.m, c.m) for c, p in zip(parts, pairs, strict=True)
    ]
    moments = Moments(at if at.reml else replace(at, reml=True), directions)
    (p, t), (_, K) = moments.first, moments.second
    v = np.concatenate([(L @ L.T)[tuple(ij.T)] for L, ij in zip(at.factors, pairs, strict=True)] + [np.zeros(0)])
    nu = model.rows.n_observations - model.n_flat
    with_noise = t - K @ v
    noise = nu - v @ t - v @ with_noise
    system = np.block([[K, with_noise[:, None]], [with_noise[None], np.array([[noise]])]])
    scale = 1 / np.sqrt(np.maximum(system.diagonal(), 1e-300))
    right = np.append(p, at.quadratic - v @ p) * scale
    solution = np.linalg.lstsq(system * scale * scale[:, None], right, rcond=1e-12)[0] * scale
    variance = max(float(solution[-1]), LEAST * at.theta[-1] ** 2)
    out, position = np.append(np.zeros(len(at.theta) - 1), np.sqrt(variance)), 0
    for c, L, ij in zip(parts, at.factors, pairs, strict=True):
        S = np.zeros((c.m, c.m))
        S[tuple(ij.T)] = S[tuple(ij[:, ::-1].T)] = solution[position : position + len(ij)]
        position += len(ij)
        own = c.coordinates >= 0
        if own.any():
            out[c.coordinates[own]] = c.read(_definite(S, np.sqrt(variance) * L))[own]
    return out


def _pattern(c: Component) -> Array:
    """Where Σ may have entries."""
    L = np.abs(c.templates).sum(axis=0)
    return L @ L.T > 0


def _unit(m: int, i: int, j: int) -> Float[Array, "m m"]:
    """The symmetric matrix with a one at (i, j)."""
    E = np.zeros((m, m))
    E[i, j] = E[j, i] = 1.0
    return E


def _definite(S: Float[Array, "m m"], L: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """S with its eigenvalues, in units of a factor L of natural size, made no less than `LEAST`²."""
    scale = np.sqrt((L**2).sum(axis=1))
    scale = np.where(scale > 0, scale, 1.0)
    d, U = np.linalg.eigh(S / np.outer(scale, scale))
    return (U * np.maximum(d, LEAST**2)) @ U.T * np.outer(scale, scale)
