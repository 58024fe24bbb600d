# SPDX-License-Identifier: BSD-3-Clause
"""The posterior of weights that outnumber the rows, from that of the few which the rows can tell apart (`thin`).

What is left of w keeps its prior:

    w = Vv + (I − VVᵀ) w₀,    w₀ ~ N(0, s²I)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from marglik.posterior.base import NewRows, TermPosterior
from marglik.priors import Ridge
from marglik.thin import Basis, thinned

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel
    from marglik.posterior.base import ArrowPosterior


@dataclass(frozen=True, eq=False)
class WidePosterior(TermPosterior):
    """That of the model's own weights.

    Parameters
    ----------
    model
        The model as it was given.
    thin
        The posterior of the same model in v.
    bases
        Label of a term → V, where it is thinner.
    """

    model: LinearModel
    thin: ArrowPosterior
    bases: dict[str, Basis]

    @cached_property
    def _scales(self) -> dict[str, Float[Array, "p"]]:
        own = {t.label: t.factor(x) for t, x in self.model.term_theta(self.thin.theta)}
        return {label: own[label] for label in self.bases}

    @cached_property
    def mean(self):
        return {label: self._wide(label, values) for label, values in self.thin.mean.items()}

    def _wide(self, label: str, values: Array) -> Array:
        return self.bases[label].times(values) if label in self.bases else values

    def _lost(self, label: str) -> Float[Array, "p p"]:
        """I − VVᵀ, times s."""
        basis, s = self.bases[label], self._scales[label]
        identity = np.eye(len(s))
        return s * (identity - basis.times(basis.transpose_times(identity)))

    @property
    def flat_covariance(self):
        return self.thin.flat_covariance

    @cached_property
    def sd(self):
        out = dict(self.thin.sd)
        for label, basis in self.bases.items():
            C, s = self.thin.term_covariance(label), self._scales[label]
            variance = np.empty(len(s))
            for wide, thin, V in basis.groups:
                own = C[np.ix_(thin, thin)]
                variance[wide] = (
                    own.diagonal()
                    if V is None
                    else np.einsum("pr,pr->p", V @ own, V) + s[wide] ** 2 * (1 - np.einsum("pr,pr->p", V, V))
                )
            out[label] = np.sqrt(np.maximum(variance, 0))
        return out

    def covariance(self) -> Float[Array, "p p"]:
        """Posterior covariance of the weights of the one dense term."""
        (label,) = self.bases
        basis = self.bases[label]
        return basis.times(basis.times(self.thin.term_covariance(label)).T) + self._lost(label) * self._scales[label]

    def sample(self, n, seed=0):
        rng = np.random.default_rng(seed)
        out = dict(self.thin.sample(n, rng.integers(1 << 62)))
        for label, basis in self.bases.items():
            z = self._scales[label] * rng.standard_normal((n, len(self._scales[label])))
            out[label] = z + basis.times(out[label] - basis.transpose_times(z))
        return out

    @property
    def edf(self):
        return self.thin.edf

    def occam(self):
        return self.thin.occam()

    def linear_predictor(self, rows):
        columns, extra = dict(rows.columns), 0.0
        for label, basis in self.bases.items():
            X = rows.columns.get(label)
            if X is not None:
                columns[label] = basis.transpose_times(X)
                extra = extra + ((X - basis.times(columns[label])) ** 2) @ self._scales[label] ** 2
        eta, variance = self.thin.linear_predictor(NewRows(columns, rows.codes, rows.offset))
        return eta, variance + extra


def widened(model: LinearModel, posterior: ArrowPosterior) -> TermPosterior:
    """The posterior of the model's own weights, from that of `LinearModel.working`."""
    found = {t.label: thinned(t) for t in model.prior if isinstance(t, Ridge)}
    bases = {label: pair[1] for label, pair in found.items() if pair is not None}
    return WidePosterior(model, posterior, bases) if bases and posterior.model is not model else posterior
