# SPDX-License-Identifier: BSD-3-Clause
"""Weights of a Gaussian model with several scales of dense columns, given y; all targets, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import blas

from marglik.gaussian.solvers import solver
from marglik.likelihoods import LOG_2PI
from marglik.linalg import cholesky, solve_upper
from marglik.posterior.base import TermPosterior

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.gaussian.gram import Gram
    from marglik.gaussian.solvers import Solver
    from marglik.model import LinearModel
    from marglik.priors import Term


@dataclass(frozen=True, eq=False)
class ScalesPosterior(TermPosterior):
    """By the reduced data. Where a scale is zero, so are its weights.

    Parameters
    ----------
    model
        Which owns the reduced data.
    theta : (V, k)
        θ of every target.
    """

    model: LinearModel
    theta: Float[Array, "V k"]

    @property
    def _data(self) -> Gram:
        return self.model.reduced

    @cached_property
    def _variances(self) -> Float[Array, "V k"]:
        return self._data.complete(self.theta) ** 2

    @cached_property
    def _only(self) -> Solver:
        return self._made(0)

    def _made(self, v: int) -> Solver:
        variances = self._variances[v]
        if not variances.any():  # of a constant response: weights are zero whatever the noise
            variances = np.append(variances[:-1], 1.0)
        return solver(self._data, variances)

    def _solver(self, v: int) -> Solver:
        """P of one target; kept where there is one only."""
        return self._only if len(self.theta) == 1 else self._made(v)

    def _each(self, f: Callable[[Solver, int], Array]) -> Array:
        """f for every target."""
        return np.stack([f(self._solver(v), v) for v in range(len(self.theta))])

    def _squeezed(self, x: Array) -> Any:
        if self.model.rows.y.ndim == 2:
            return x
        return float(x[0]) if x.ndim == 1 else x[0]

    @cached_property
    def _flat_label(self) -> str | None:
        return next((t.label for t in self.model.prior if t.flat), None)

    @cached_property
    def _places(self) -> list[tuple[Term, slice]]:
        """Every dense term and where its columns lie."""
        ends = np.cumsum([0, *(t.n_weights for t in self.model.dense)])
        return [(t, slice(a, b)) for t, a, b in zip(self.model.dense, ends[:-1], ends[1:], strict=True)]

    def _by_term(self, flat: Array, coefficients: Array, weights: bool = True) -> dict[str, Any]:
        """Arrays by term in the prior's order; coefficients become weights."""
        out = {t.label: t.weights(coefficients[..., p]) if weights else coefficients[..., p] for t, p in self._places}
        if self._flat_label is not None:
            out[self._flat_label] = flat
        return {t.label: out[t.label] for t in self.model.prior}

    @cached_property
    def _coefficients(self) -> Float[Array, "V p"]:
        return self._each(lambda at, v: at.weights(slice(v, v + 1))[0])

    @cached_property
    def _flat(self) -> Float[Array, "V f"]:
        gamma = -blas.dgemm(1.0, self._data.means, self._coefficients, trans_b=1)
        return solve_upper(self.model.flat_basis.R, gamma).T + self._data.shift.T

    @cached_property
    def mean(self):
        found = self._by_term(self._flat, self._coefficients)
        return {label: self._squeezed(x) for label, x in found.items()}

    def covariance(self, v: int = 0) -> Float[Array, "p p"]:
        """Posterior covariance of one target's weights, all dense terms side by side."""
        M = np.eye(len(self._data.place))
        for term, place in self._places:
            if term.mixing is not None:
                M[place, place] = term.mixing
        kept, lost = self._solver(v).halves(M)
        return blas.dgemm(1.0, kept, kept, trans_a=1) - blas.dgemm(1.0, lost, lost, trans_a=1)

    @cached_property
    def flat_covariance(self):
        data, R = self._data, self.model.flat_basis.R
        unit = np.eye(len(R)) / data.n_rows

        def one(at: Solver, v: int) -> Array:
            kept, lost = at.halves(data.means)
            half = solve_upper(R, kept.T @ kept - lost.T @ lost + self._variances[v, -1] * unit)
            return solve_upper(R, np.ascontiguousarray(half.T))

        return self._squeezed(self._each(one))

    @cached_property
    def sd(self):
        def one(at: Solver, v: int) -> Array:
            variance = at.spread()
            for term, place in self._places:
                if term.mixing is not None:
                    K = np.zeros((term.n_weights, len(variance)))
                    K[:, place] = term.mixing
                    kept, lost = at.halves(K)
                    variance[place] = (kept**2).sum(axis=0) - (lost**2).sum(axis=0)
            return np.sqrt(np.maximum(variance, 0))

        f = self.model.n_flat
        flat = np.sqrt(np.einsum("...ff->...f", np.reshape(self.flat_covariance, (len(self.theta), f, f))))
        found = self._by_term(flat, self._each(one), weights=False)
        return {label: self._squeezed(x) for label, x in found.items()}

    def sample(self, n, seed=0):
        rng = np.random.default_rng(seed)
        data = self._data
        w = np.stack([mean + self._solver(v).draws(n, rng) for v, mean in enumerate(self._coefficients)], axis=1)
        noise = rng.standard_normal((n, len(self.theta), len(data.means)))
        gamma = noise * (self.theta[:, -1:] / np.sqrt(data.n_rows)) - w @ data.means.T
        beta = solve_upper(self.model.flat_basis.R, gamma.reshape(-1, len(data.means)).T).T
        found = self._by_term(beta.reshape(gamma.shape) + data.shift.T, w)
        return found if self.model.rows.y.ndim == 2 else {label: x[:, 0] for label, x in found.items()}

    @cached_property
    def edf(self):
        shares = self._each(lambda at, v: at.shares())
        found = self._by_term(np.ones((len(self.theta), self.model.n_flat)), shares, weights=False)
        return {label: self._squeezed(x.sum(axis=1)) for label, x in found.items()}

    def occam(self):
        model, data = self.model, self._data
        n, f = data.n_observations, data.Q.shape[1]
        found: dict[str, list[float]] = {label: [] for label in ("fit", *(t.label for t in model.prior), "overlap")}
        with np.errstate(divide="ignore", invalid="ignore"):
            for v in range(len(self.theta)):
                at, b = self._solver(v), self._variances[v, -1]
                a = self._variances[v][data.place]
                unit = np.divide(self._coefficients[v], np.sqrt(a), out=np.zeros_like(a), where=a > 0)
                left = b * at.quadratic(slice(v, v + 1))[0] - b * unit @ unit
                found["fit"].append(-n / 2 * (LOG_2PI + np.log(b)) - left / (2 * b) + model.log_row_scale)
                log_dets = 0.0
                for term, place in self._places:
                    log_det = _log_det(data.X[:, place][:, a[place] > 0] * np.sqrt(a[place][a[place] > 0] / b))
                    found[term.label].append(-unit[place] @ unit[place] / 2 - log_det / 2)
                    log_dets += log_det
                if self._flat_label is not None:
                    found[self._flat_label].append(f / 2 * (LOG_2PI - np.log(data.n_rows / b)) - model.log_volume)
                found["overlap"].append((log_dets - at.log_det + data.n_free * np.log(b)) / 2)
        return {label: self._squeezed(np.array(x)) for label, x in found.items()}

    def linear_predictor(self, rows):
        data, means = self._data, self.mean
        flat = None if self._flat_label is None else rows.columns.get(self._flat_label)
        n, V = len(next(iter(rows.columns.values()))), len(self.theta)
        eta = np.zeros((n, V)) + np.reshape(rows.offset, (-1, 1))
        K, own = np.zeros((n, len(data.place))), np.zeros(n)
        for term in self.model.prior:
            if term.label in rows.columns:
                eta += rows.columns[term.label] @ np.reshape(means[term.label], (V, -1)).T
        for term, place in self._places:
            X = rows.columns.get(term.label)
            if X is not None:
                K[:, place] = X if term.mixing is None else X @ term.mixing
        if flat is not None:
            Q = solve_upper(self.model.flat_basis.R, np.ascontiguousarray(flat.T), transposed=True).T
            K -= Q @ data.means
            own = np.einsum("nf,nf->n", Q, Q) / data.n_rows

        def one(at: Solver, v: int) -> Array:
            kept, lost = at.halves(K)
            return (kept**2).sum(axis=0) - (lost**2).sum(axis=0) + self._variances[v, -1] * own

        variance = np.maximum(self._each(one).T, 0)
        return (eta[:, 0], variance[:, 0]) if self.model.rows.y.ndim == 1 else (eta, variance)


def _log_det(X: Float[Array, "n m"]) -> float:
    """log|I + XᵀX|."""
    if not X.size:
        return 0.0
    X = X if X.shape[1] <= len(X) else X.T
    H = blas.dsyrk(1.0, X, trans=1, lower=1)
    H.flat[:: len(H) + 1] += 1
    return 2 * float(np.log(cholesky(H).diagonal()).sum())
