# SPDX-License-Identifier: BSD-3-Clause
"""The Gaussian integral: the evidence in closed form, with gradient and Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marglik.evidence import fields, kernels, mixed, scales, spectral
from marglik.evidence.base import EvidenceMethod, Peak
from marglik.gaussian.projection import Projection
from marglik.posterior.base import SpectralPosterior
from marglik.posterior.mixed import MixedPosterior
from marglik.posterior.rows import RowsPosterior
from marglik.posterior.scales import ScalesPosterior


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
        if model.one_scale:
            return spectral.evidence(model, np.atleast_2d(theta))
        if model.dense_scales:
            return scales.evidence(model, np.atleast_2d(theta))
        if model.dense_rows:
            return kernels.evidence(model, theta)
        if model.dense_weights:
            return fields.evidence(model, theta)
        return mixed.evidence(model.compact(theta), theta)

    def unsuited(self, model):
        likelihood = getattr(model, "likelihood", None)
        if likelihood is not None and likelihood.gaussian:
            return None
        kind = "a program's" if likelihood is None else type(likelihood).__name__
        return f"needs a Gaussian likelihood, but this model's is {kind}"

    def batched(self, model):
        return model.one_scale or model.dense_scales

    def maximum(self, model, theta, free):
        if model.one_scale:
            return Peak(spectral.maxima(model, theta, free))
        if model.dense_rows:
            several = kernels.maxima(model, theta, free)
            return Peak(several[:1], others=several[1:]) if len(several) else None
        found = scales.maxima(model, theta, free) if model.dense_scales else None
        return None if found is None else Peak(found)

    def limits(self, model, theta, drop):
        return scales.limits(model, theta, drop) if model.dense_scales and model.reduced.single else None

    def posterior(self, model, theta, start=None):
        if model.one_scale:
            return SpectralPosterior(model, *(theta**2).T)
        if model.dense_scales:
            return ScalesPosterior(model, theta)
        if model.dense_rows:
            return RowsPosterior(kernels.At.of(model, theta[0]))
        return MixedPosterior(Projection.at(model.compact(theta[0]), theta[0]))

    def starts(self, model, theta, free):
        if model.dense_rows:
            return kernels.starts(model, theta, free)
        if model.dense_weights:
            return fields.starts(model, theta, free)
        return mixed.starts(model, theta, free)
