# SPDX-License-Identifier: BSD-3-Clause
"""Weights of a Gaussian model with about a weight a row given y and θ̂, by the covariance of the rows.

With α = Py, c the covariance of η at a new row with the rows, and q its flat columns,

    E η = qᵀβ̂ + cᵀα,    var η = var₀ η − cᵀV⁻¹c + (q − FᵀV⁻¹c)ᵀ(FᵀV⁻¹F)⁻¹(q − FᵀV⁻¹c)

References
----------
Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, §2.2 and §2.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular

from marglik.gaussian.projection import Projection
from marglik.posterior.base import TermPosterior
from marglik.posterior.mixed import MixedPosterior

if TYPE_CHECKING:
    from marglik.evidence.kernels import At

CHUNK = 4_000_000
"""Numbers held at a time where new rows meet the rows."""


@dataclass(frozen=True, eq=False)
class RowsPosterior(TermPosterior):
    """Means and predictions by V; what belongs to single weights by `MixedPosterior`.

    Parameters
    ----------
    at
        The evidence at θ̂, with the factor of V.
    """

    at: At

    @cached_property
    def weights(self) -> MixedPosterior:
        """The same posterior, weight by weight."""
        return MixedPosterior(Projection.at(self.at.model.compact(self.at.theta), self.at.theta))

    @cached_property
    def mean(self):
        out, own = {}, iter(part for _, part in self.at.parts)
        for term in self.at.model.prior:
            if term.flat:
                shift = self.at.model.residuals.read(slice(0, 1))[1][:, 0]
                out[term.label] = np.linalg.solve(self.at.model.flat_basis.R, self.at.beta) + shift
            else:
                out[term.label] = next(own).weights(self.at.alpha)
        return out

    @cached_property
    def flat_covariance(self):
        half = np.linalg.inv(self.at.flat_root) @ np.linalg.inv(self.at.model.flat_basis.R).T
        return half.T @ half

    @property
    def sd(self):
        return self.weights.sd

    @property
    def edf(self):
        return self.weights.edf

    def occam(self):
        return self.weights.occam()

    def sample(self, n, seed=0):
        return self.weights.sample(n, seed)

    def linear_predictor(self, rows):
        return self.weights.linear_predictor(rows)

    def at_inputs(self, rows):
        at, model = self.at, self.at.model
        n, own = len(next(iter(rows.columns.values()))), iter(part for _, part in at.parts)
        eta, variance = np.zeros(n) + rows.offset, np.zeros(n)
        flat, crossed = np.zeros((n, model.n_flat)), []
        for term in model.prior:
            part, x = None if term.flat else next(own), rows.columns.get(term.label)
            if x is None:
                continue
            if part is None:
                eta, flat = eta + x @ self.mean[term.label], x @ np.linalg.inv(model.flat_basis.R)
            else:
                variance = variance + part.variance(x)
                crossed.append((part, x))
        step = max(1, CHUNK // len(at.rows))
        for chunk in (slice(i, i + step) for i in range(0, n if crossed else 0, step)):
            C = np.sum([part.cross(x[chunk]) for part, x in crossed], axis=0)
            eta[chunk] += C @ at.alpha
            variance[chunk] -= (at.whitened(C.T) ** 2).sum(axis=0)
            flat[chunk] -= C @ at.solved_flat
        left = solve_triangular(at.flat_root, flat.T, lower=True)
        return eta, np.maximum(variance, 0.0) + (left**2).sum(axis=0)
