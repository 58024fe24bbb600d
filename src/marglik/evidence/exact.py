# SPDX-License-Identifier: BSD-3-Clause
"""The Gaussian integral: the evidence in closed form, with gradient and Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marglik.evidence import spectral
from marglik.evidence.base import Evidence, EvidenceMethod
from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow
from marglik.posterior import Gaussian, SpectralPosterior

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.expansion import Expansion
    from marglik.model import LinearModel


@dataclass(frozen=True)
class Exact(EvidenceMethod):
    """log p(y|θ) = log N(y; 0, σ²I + X L LᵀXᵀ), flat weights integrated out (REML) or maximised (ML).

        log p(y|θ) = log p(y, û|θ) + (p log 2π − log|H|) / 2,    H = LᵀXᵀXL/σ² + I,    û = H⁻¹LᵀXᵀy/σ²

    Under ML, H leaves the flat columns out. A model with a single shared scale goes through its spectrum instead,
    all targets at once; see `marglik.evidence.spectral`.

    References
    ----------
    Bates, Mächler, Bolker & Walker (2015), J. Stat. Softw. 67(1), §3. Harville (1977), JASA 72, 320.
    """

    exact = True
    profiles_flat = True

    def __call__(self, model, theta, start=None):
        if self.batched(model):
            return spectral.evidence(model, np.atleast_2d(theta))
        return _arrow_evidence(model, theta)

    def unsuited(self, model):
        likelihood = getattr(model, "likelihood", None)
        if likelihood is not None and likelihood.gaussian:
            return None
        kind = "a program's" if likelihood is None else type(likelihood).__name__
        return f"needs a Gaussian likelihood, but this model's is {kind}"

    def batched(self, model):
        return model.one_scale

    def maximum(self, model, theta, free):
        return spectral.maxima(model, theta, free) if model.one_scale else None

    def posterior(self, model, theta, start=None):
        if model.one_scale:
            return SpectralPosterior(model, *(theta**2).T)
        return super().posterior(model, theta, start)

    def starts(self, model, theta, free):
        return _ratio_scan(model, theta, free)


@dataclass(frozen=True, eq=False)
class _Integral:
    """The Gaussian integral at one θ: û, H over all weights, and K over those that are integrated."""

    mode: Expansion
    u: Float[Array, "p"]
    H: Arrow
    K: Arrow
    integrated: Array
    log_value: float


def _integral(model: LinearModel, theta: Array) -> _Integral:
    origin = model.at(np.zeros(model.n_weights), theta)
    H = origin.neg_hessian
    u = H.solve(origin.score)
    mode = model.at(u, theta)
    integrated = np.ones(len(H.border), bool)
    integrated[: model.columns.n_flat] = model.reml
    K = H if model.reml else H.keep_border(integrated)
    log_volume = model.log_volume if model.reml else 0.0
    log_value = mode.log_joint + (K.size * LOG_2PI - K.log_det) / 2 - log_volume
    return _Integral(mode, u, H, K, integrated, log_value)


def _arrow_evidence(model: LinearModel, theta: Array) -> Evidence:
    i = _integral(model, theta)
    C = i.K.inverse_on_pattern()
    _, slope = i.mode.neg_hessian_vjp(C if model.reml else _padded(C, i.integrated))
    gradient = i.mode.theta_derivatives().log_joint - slope / 2
    hessian = _hessian(model, theta, i, C, gradient)
    return Evidence(i.log_value, gradient, hessian, posterior=Gaussian(i.u, i.H))


def _padded(C: Arrow, keep: Array) -> Arrow:
    """C with zero rows and columns on the border where it was left out."""
    f = len(keep)
    cross = np.zeros((*C.cross.shape[:2], f))
    cross[:, :, keep] = C.cross
    border = np.zeros((f, f))
    border[np.ix_(keep, keep)] = C.border
    return Arrow(C.blocks, cross, border)


def _hessian(
    model: LinearModel, theta: Array, integral: _Integral, C: Arrow, gradient: Array
) -> Float[Array, "k k"] | None:
    """Second derivatives in θ, from blocks of H⁻¹ by scale; None where one block has several scales.

    In a_i = log s_i, with û_i the weights of scale i and K what is integrated (H itself under REML):

        ∂²ℓ/∂a_i∂a_j = 2‖δ_ij I − (K⁻¹)_ij‖²_F − 4 û_iᵀ(δ_ij I − (H⁻¹)_ij)û_j + 2 δ_ij ∂ℓ/∂a_i

    (Lindstrom & Bates 1988, JASA 83, 1014, in factor coordinates.) The evidence depends on scales and noise through
    their ratios, which gives the noise's row.
    """
    grouped = model.grouped
    if (grouped is not None and len(grouped.hyperparameters()) > 1) or np.any(theta == 0):
        return None
    H, K, u = integral.H, integral.K, integral.u
    own, of_K = _scale_places(model, int(integral.integrated[: model.columns.n_flat].sum()))
    norms = K.inverse_squared_norms([p for p in of_K if p is not None])
    traces = [C.border.diagonal()[p].sum() if p is not None else np.einsum("qmm->", C.blocks) for p in of_K]

    k = len(own)
    h = np.empty((k, k))
    for j, place in enumerate(own):
        v = np.zeros(H.size)
        v[place] = u[place]
        x = H.solve(v)
        h[:, j] = 2 * norms[:, j] + 4 * np.array([u[p] @ x[p] for p in own])
        h[j, j] += 2 * (len(u[place]) - 2 * traces[j]) - 4 * u[place] @ u[place]
    t = np.array([u[p] @ u[p] for p in own])
    slope = gradient * theta
    # In the order of θ: terms as they stand in the prior.
    scaled = [term for term in model.prior if term.hyperparameters()]
    blocks_first = sorted(scaled, key=lambda term: not term.grouped)
    order = [blocks_first.index(term) for term in scaled]
    h, t = h[np.ix_(order, order)] + np.diag(2 * slope[:k]), t[order]

    sigma2 = theta[-1] ** 2
    quadratic = model.gram_sums.yy / sigma2 - u @ model.at(np.zeros_like(u), theta).score
    full = np.empty((k + 1, k + 1))
    full[:k, :k] = h
    full[:k, k] = full[k, :k] = -h.sum(axis=1) - 2 * t
    full[k, k] = h.sum() + 4 * t.sum() - 2 * quadratic
    return (full - np.diag(slope)) / np.outer(theta, theta)


def _scale_places(model: LinearModel, n_flat_in_K: int) -> tuple[list[slice], list[slice | None]]:
    """Where each scale's weights lie: among all, and on the border of K (None for the blocks); blocks first."""
    size, n_flat = model.columns.n_levels * model.columns.Z.shape[1], model.columns.n_flat
    own, of_K = ([slice(0, size)], [None]) if model.grouped is not None else ([], [])
    position = 0
    for term in model.dense:
        end = position + term.n_weights
        own.append(slice(size + n_flat + position, size + n_flat + end))
        of_K.append(slice(n_flat_in_K + position, n_flat_in_K + end))  # type: ignore[arg-type]
        position = end
    return own, of_K  # type: ignore[return-value]


def _ratio_scan(model: LinearModel, theta: Array, free: Array) -> Float[Array, "1 k"]:
    """The best of a grid of ratios of prior scale to noise, the noise at its optimum for each."""
    units = np.concatenate([term.units() for term in model.prior])
    k = len(units)
    best, best_value = theta, -np.inf
    freedom = model.rows.n_observations - (model.n_flat if model.reml else 0)
    sigma = float(np.sqrt(model.gram_sums.yy / max(freedom, 1)))
    for ratio in np.geomspace(1e-3, 1e3, 13):
        trial = np.where(free, np.append(ratio * units * sigma, sigma), theta)
        if free[k]:
            # With every ratio held, σ̂² = S/(n − f), where S/σ² is the quadratic form at σ.
            for _ in range(1 if free[:k].all() else 3):
                origin = model.at(np.zeros(model.n_weights), trial)
                quad = model.gram_sums.yy / trial[k] ** 2 - origin.score @ origin.neg_hessian.solve(origin.score)
                grow = np.sqrt(max(quad, 1e-300) / freedom)
                trial = np.where(free, trial * grow, theta)
        value = _integral(model, trial).log_value
        if value > best_value:
            best, best_value = trial, value
    return best[None]
