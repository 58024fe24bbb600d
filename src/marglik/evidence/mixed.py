# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of Gaussian mixed models, with gradient and Hessian.

In units of the noise, y has covariance V = I + Σ_c Z_c (I ⊗ L_c L_cᵀ) Z_cᵀ, with one component c a grouping factor or
a scale of dense columns. With flat columns F, P = V⁻¹ − V⁻¹F(FᵀV⁻¹F)⁻¹FᵀV⁻¹ and ν = n − f,

    −2 log p(y|θ) = ν log 2πσ² + yᵀPy/σ² + log|V| + log|FᵀV⁻¹F|                                       (REML)

The k-th coordinate moves V by V_k = Z(I ⊗ Σ̇_k)Zᵀ. Where L is linear in θ, Σ̇_k = T_kLᵀ + LT_kᵀ; other terms state
Σ̇ and Σ̈ themselves, where Σ is diagonal as vectors. So

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
from marglik.gaussian.projection import Moments, Projection

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel

EXACT = 1e-10
"""No noise is evaluated at a smaller share of the response's spread: y is then fitted exactly."""
LEAST = 1e-2
"""No scale starts at a smaller share of its natural size: learning would have to find its way back."""


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
        padded = np.append(at.theta, 1.0)
        self.moments = Moments(at, [c.tangents(padded) / at.theta[-1] for c in at.model.components])

    @cached_property
    def coordinates(self) -> Array:
        """Position in θ of each coordinate of the components; −1 where it is not learned."""
        return np.concatenate([np.zeros(0, int), *(c.coordinates for c in self.at.model.components)])

    @cached_property
    def scales(self) -> Array:
        """Which of them are in the units of y."""
        return np.concatenate([np.zeros(0, bool), *(c.scales for c in self.at.model.components)])

    @cached_property
    def _first(self) -> tuple[Array, Array, Array]:
        """Along the components: their values, 0 for what is no scale, ∂ℓ, and ∂φ for φ = yᵀPy/σ²; the noise held."""
        sigma, (p, t) = self.at.theta[-1], self.moments.first
        values = np.where(self.scales, np.append(self.at.theta, 1.0)[self.coordinates], 0.0)
        return values, (p / sigma**2 - t) / 2 / sigma, -p / sigma**3

    @cached_property
    def gradient(self) -> Float[Array, "k"]:
        """ℓ depends on a factor c of all scales through −ν log c − φ/2c² alone (Euler), which gives the noise's."""
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
        row = (slope_phi - np.where(self.scales, slope, 0.0) - H @ values) / sigma
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
    padded = np.append(moments.at.theta, 1.0)
    for c, place, (R, Q) in zip(moments.at.model.components, moments.places, moments.totals, strict=True):
        bend_p[place, place], bend_t[place, place] = c.bends(padded, R), c.bends(padded, Q)
    return -((2 * q - bend_p) / sigma**2 + bend_t - K) / 2 / sigma**2


def starts(model: LinearModel, theta: Float[Array, "k"], free: Array) -> Float[Array, "s k"]:
    """The better of two: scales of natural size, and the quadratic estimate of least variance around them (MINQUE).

    So for each of several length scales, where weights are correlated.
    """
    nu = model.rows.n_observations - model.n_flat
    size = np.sqrt(model.level_sums.border[-1, -1] / max(nu, 1)) or 1.0
    share = size / np.sqrt(1 + len(model.components))
    if not free[-1] and theta[-1] == 0:
        raise ValueError(
            "sd(noise) is held at zero, but the evidence of a mixed model is computed for a positive one. Hold it at a "
            "small share of the response's spread."
        )
    each = [term.starts(share) if term.kernel else share * term.units()[None] for term in model.prior]
    found = []
    for i in range(max(map(len, each))):
        natural = np.concatenate([*(own[i % len(own)] for own in each), np.array([size])])
        natural = np.where(free, natural, theta)
        found.append(_better_start(model.compact(natural), natural, free) if free.any() else natural)
    return np.array(found)


def _better_start(model: LinearModel, natural: Float[Array, "k"], free: Array) -> Float[Array, "k"]:
    at = Projection.at(model, natural)
    if free.all():
        at = at.rescaled(np.sqrt(at.quadratic / at.freedom) / natural[-1])
        natural = at.theta
    estimate = np.where(free, _minque(at), natural)
    positive = np.array([h.support.lower == 0 for h in model.hyperparameters])
    estimate = np.where(positive, np.maximum(np.abs(estimate), LEAST * natural), estimate)
    return estimate if Projection.at(model, estimate).log_value > at.log_value else natural


def _minque(at: Projection) -> Float[Array, "k"]:
    """θ from the unbiased quadratic estimate of all variances and covariances, made positive definite.

    With y ~ N(Fβ, bI + Σ u_kV_k): E yᵀPV_kPy = b tr(PV_kP) + Σ_l u_l tr(PV_kPV_l), and the same with I for V_k.
    """
    model, parts = at.model, at.model.components
    padded = np.append(at.theta, 1.0)
    directions = [c.directions(padded) for c in parts]
    moments = Moments(at if at.reml else replace(at, reml=True), directions)
    (p, t), (_, K) = moments.first, moments.second
    v = np.concatenate([np.zeros(0), *(c.along(padded) for c in parts)]) / at.theta[-1] ** 2
    nu = model.rows.n_observations - model.n_flat
    with_noise = t - K @ v
    noise = nu - v @ t - v @ with_noise
    system = np.block([[K, with_noise[:, None]], [with_noise[None], np.array([[noise]])]])
    scale = 1 / np.sqrt(np.maximum(system.diagonal(), 1e-300))
    right = np.append(p, at.quadratic - v @ p) * scale
    solution = np.linalg.lstsq(system * scale * scale[:, None], right, rcond=1e-12)[0] * scale
    variance = max(float(solution[-1]), LEAST * at.theta[-1] ** 2)
    out, least = np.append(np.zeros(len(at.theta) - 1), np.sqrt(variance)), LEAST * np.sqrt(variance) / at.theta[-1]
    for c, place in zip(parts, moments.places, strict=True):
        own = c.coordinates >= 0
        if own.any():
            out[c.coordinates[own]] = c.read(padded, solution[:-1][place], least)[own]
    return out
