# SPDX-License-Identifier: BSD-3-Clause
"""Weights of a Gaussian mixed model given y and θ̂: the border's jointly, the inner levels' given the border's.

With S_g = Σ G_g the inner levels' covariance given the border's weights, in units of σ², and E_g = S_gB_g,

    w_g | w_border ~ N(S_g Z_gᵀy − E_g w_border, σ² S_g),    w_border ~ N(ŵ, σ² Ω)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from marglik.gaussian.components import square, times
from marglik.gaussian.projection import Moments, Projection, padded
from marglik.likelihoods import LOG_2PI
from marglik.linalg import cholesky, level_blocks, solve_lower
from marglik.posterior.base import TermPosterior, level_sds, mixed

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.gaussian.levels import Grouping
    from marglik.priors import Term

CHUNK = 4_000_000
"""Numbers held at a time where rows meet the whole border."""


@dataclass(frozen=True, eq=False)
class MixedPosterior(TermPosterior):
    """By the projection of the inner levels.

    Parameters
    ----------
    at
        The model's projection at θ̂.
    """

    at: Projection

    @cached_property
    def _variance(self) -> float:
        return float(self.at.theta[-1] ** 2)

    @cached_property
    def _prior(self) -> Float[Array, "m m"]:
        """Σ of the inner weights, in units of σ²."""
        L = self.at.factors[0] if self.at.sums.inner is not None else np.zeros((1, 1))
        return L @ L.T

    @cached_property
    def _inner(self) -> Float[Array, "q m m"]:
        """S."""
        S = self._prior @ self.at.shrunk[0]
        return (S + S.transpose(0, 2, 1)) / 2

    @cached_property
    def _effects(self) -> sparse.csr_array:
        """E, as a matrix of one row an inner weight."""
        return self.at.cross.rows(self._prior)[:, :-1]

    @cached_property
    def _inner_mean(self) -> Float[Array, "q m"]:
        return self.at.cross.times(np.append(-self.at.weights, 1.0)) @ self._prior

    @cached_property
    def _places(self) -> dict[str, tuple[Grouping | None, slice, slice]]:
        """Of each term: its grouping factor, if any, its columns among that factor's, and its place in the border."""
        sums, position = self.at.sums, 0
        out: dict[str, tuple[Grouping | None, slice, slice]] = {}
        for grouping in [g for g in (sums.inner, *sums.outer) if g is not None]:
            row = 0
            for term in grouping.terms:
                c = len(term.coefficients)
                out[term.label] = grouping, slice(row, row + c), slice(position, position + grouping.size)
                row += c
            position += 0 if grouping is sums.inner else grouping.size
        for own in (*self.at.model.dense, *(t for t in self.at.model.prior if t.flat)):
            out[own.label] = None, slice(0, own.n_weights), slice(position, position + own.n_weights)
            position += own.n_weights
        return out

    def _by_term(self, inner: Float[Array, "*r q m"], border: Float[Array, "*r F"]) -> dict[str, Array]:
        """Weights by term from those of the working columns; leading axes are kept."""
        model, out = self.at.model, {}
        for term in model.prior:
            grouping, columns, place = self._places[term.label]
            if grouping is None:
                w = border[..., place]
                if term.flat:
                    R = model.flat_basis.R
                    out[term.label] = np.linalg.solve(R, w[..., None])[..., 0] + self._shift
                else:
                    out[term.label] = term.weights(w)
            else:
                w = inner if grouping is self.at.sums.inner else border[..., place]
                w = w.reshape(*w.shape[: border.ndim - 1], grouping.n_levels, grouping.Z.shape[1])
                out[term.label] = term.weights(w[..., : len(term.levels), columns])  # type: ignore[attr-defined, index]
        return out

    @cached_property
    def _shift(self) -> Array:
        return self.at.model.residuals.read(slice(0, 1))[1][:, 0]

    @cached_property
    def mean(self):
        return self._by_term(self._inner_mean, self.at.weights)

    @cached_property
    def flat_covariance(self):
        p, R = self.at.sums.n_penalised, self.at.model.flat_basis.R
        half = np.linalg.solve(R, self._variance * self.at.covariance[p:, p:])
        return np.linalg.solve(R, half.T)

    @cached_property
    def _inner_covariance(self) -> Float[Array, "q m m"]:
        """S_g + E_gΩE_gᵀ: of the inner levels, whatever the border's weights are."""
        return self._inner + self._prior @ self.at.cross.spread(padded(self.at.covariance)) @ self._prior

    @cached_property
    def sd(self):
        out = {}
        for term in self.at.model.prior:
            grouping, columns, place = self._places[term.label]
            if term.flat:
                out[term.label] = np.sqrt(self.flat_covariance.diagonal())
            elif grouping is None:
                M, C = term.mixing, self.at.covariance[place, place]
                variance = C.diagonal() if M is None else np.einsum("ij,jk,ik->i", M, C, M, optimize=True)
                out[term.label] = np.sqrt(self._variance * np.maximum(variance, 0))
            else:
                inner = grouping is self.at.sums.inner
                blocks = self._inner_covariance if inner else level_blocks(self.at.covariance, place, grouping.n_levels)
                out[term.label] = level_sds(term, self._variance * blocks[:, columns, columns])
        return out

    def sample(self, n, seed=0):
        rng = np.random.default_rng(seed)
        sigma, at = np.sqrt(self._variance), self.at
        z = rng.standard_normal((len(at.root), n))
        border = at.weights[:, None] + sigma * at.times_factor(solve_lower(at.root, z, transposed=True))
        q, m = self._inner_mean.shape if at.sums.inner is not None else (0, 1)
        inner = np.zeros((n, q, m))
        if q:
            moved = (self._effects @ (border - at.weights[:, None])).T.reshape(n, q, m)
            d, U = np.linalg.eigh(self._inner)
            root = U * np.sqrt(np.maximum(d, 0))[:, None, :]
            own = np.einsum("qij,nqj->nqi", root, rng.standard_normal((n, q, m)))
            inner = self._inner_mean - moved + sigma * own
        return self._by_term(inner, border.T)

    @cached_property
    def edf(self):
        """tr ΣQ by term, Q the sum of its blocks of ZᵀPZ with flat weights integrated."""
        model, joint = self.at.model, replace(self.at, reml=True)
        out = {t.label: float(t.n_weights) if t.flat else 0.0 for t in model.prior}
        moments = Moments(joint, [np.zeros((0, *L.shape)) for L in joint.factors])
        for c, L, (_, Q) in zip(model.components, self.at.factors, moments.totals, strict=True):
            for label, rows in c.terms:
                out[label] += float(np.sum((square(L) * Q)[rows]))
        return out

    def occam(self):
        model, at, sigma2 = self.at.model, self.at, self._variance
        moments = Moments(at, [np.zeros((0, *L.shape)) for L in at.factors])
        out = {t.label: 0.0 for t in model.prior}
        log_dets, squares = 0.0, 0.0
        for c, L, r in zip(model.components, at.factors, moments.scores, strict=True):
            u2 = times(r, L) ** 2 / sigma2
            squares += float(u2.sum())
            for label, rows in c.terms:
                # the columns of L that are the term's
                own = np.flatnonzero(np.any(L[rows] != 0, axis=0)) if L.ndim == 2 else rows
                out[label] -= float(u2[:, own].sum()) / 2
        for term in model.prior:
            log_det = self._own_log_det(term)
            if term.flat and at.reml:
                f = term.n_weights
                out[term.label] = f * (LOG_2PI + np.log(sigma2)) / 2 - model.log_volume
            elif term.flat:
                log_det = 0.0
            out[term.label] -= log_det / 2
            log_dets += log_det
        n = model.rows.n_observations
        rss = at.quadratic / sigma2 - squares
        fit = -n / 2 * (LOG_2PI + np.log(sigma2)) - rss / 2 + model.log_row_scale
        return {"fit": float(fit), **out, "overlap": (log_dets - at.log_det) / 2}

    def _own_log_det(self, term: Term) -> float:
        """log|I + LᵀZᵀZL| of a term alone, in units of the noise; log|FᵀF| of the flat one."""
        sums, gram = self.at.sums, self.at.sums.border
        grouping, columns, place = self._places[term.label]
        if term.flat:
            return 2 * float(np.log(cholesky(gram[place, place]).diagonal()).sum())
        if grouping is None:
            H = self.at.times_factor(self.at.times_factor(gram[:-1, :-1], transposed=True).T, transposed=True)[
                place, place
            ]
            return 2 * float(np.log(cholesky(H + np.eye(len(H))).diagonal()).sum())
        L = self._factor(term)
        A = sums.blocks if grouping is sums.inner else level_blocks(gram, place, grouping.n_levels)
        H = L.T @ A[:, columns, columns] @ L
        return float(np.linalg.slogdet(np.eye(L.shape[1]) + H)[1].sum())

    def _factor(self, term: Term) -> Float[Array, "c m"]:
        """The rows of L/σ that belong to a grouped term."""
        for c, L in zip(self.at.model.components, self.at.factors, strict=True):
            for label, rows in c.terms:
                if label == term.label:
                    return L[rows]
        raise KeyError(term.label)

    def linear_predictor(self, rows):
        model, at, inner = self.at.model, self.at, self.at.sums.inner
        n = len(next(iter(rows.columns.values())))
        m = 1 if inner is None else inner.Z.shape[1]
        z, codes = np.zeros((n, m)), np.zeros(n, int)
        eta, variance = np.zeros(n) + rows.offset, np.zeros(n)
        entries = []
        for term in model.prior:
            X = rows.columns.get(term.label)
            if X is None:
                continue
            grouping, columns, place = self._places[term.label]
            if grouping is None:
                eta += X @ self.mean[term.label]
                own = X @ np.linalg.inv(model.flat_basis.R) if term.flat else mixed(term, X)
                entries.append((np.full(n, place.start), own))
                continue
            code = rows.codes[term.label]
            seen = code >= 0
            code = np.where(seen, code, 0)
            known = X * seen[:, None]
            eta += np.einsum("nm,nm->n", known, self.mean[term.label][code])
            known, unseen = mixed(term, known), mixed(term, X - known)
            variance += ((unseen @ self._factor(term)) ** 2).sum(axis=1)  # a level that was not seen has its prior
            if grouping is inner:
                z[:, columns], codes = known, np.where(seen, code, codes)
            else:
                entries.append((place.start + code * grouping.Z.shape[1] + columns.start, known))
        x = _sparse(entries, n, len(at.weights))
        if inner is not None:
            variance += np.einsum("nm,nmk,nk->n", z, self._inner[codes], z, optimize=True)
            x = x - _sparse([(codes * m, z)], n, inner.size) @ self._effects
        step = max(1, CHUNK // max(1, len(at.weights)))
        for part in (slice(i, i + step) for i in range(0, n, step)):
            variance[part] += x[part].multiply(x[part] @ at.covariance).sum(axis=1)
        return eta, self._variance * np.maximum(variance, 0)


def _sparse(entries: list[tuple[Array, Array]], n: int, width: int) -> sparse.csr_array:
    """Rows with runs of values: each entry gives the column where a row's run starts, and the runs (n, c)."""
    row = [np.repeat(np.arange(n), values.shape[1]) for _, values in entries]
    column = [(start[:, None] + np.arange(values.shape[1])).reshape(-1) for start, values in entries]
    data = [values.reshape(-1) for _, values in entries]
    none = [np.zeros(0, int)]
    indices = np.concatenate(row + none), np.concatenate(column + none)
    return sparse.csr_array((np.concatenate([*data, np.zeros(0)]), indices), shape=(n, width))
