# SPDX-License-Identifier: BSD-3-Clause
"""The contract of evidence methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from marglik.evidence.base import Evidence, EvidenceMethod, evaluate
from marglik.hyperparameters import Hyperparameters
from marglik.likelihoods import LOG_2PI
from marglik.model import LinearModel, Model
from marglik.posterior.base import Gaussian, TermPosterior
from marglik.testing.numbers import agree, derivative, require

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array


def check_evidence(
    method: EvidenceMethod,
    model: Model,
    theta: ArrayLike,
    gradient_rtol: float = 1e-6,
    hessian_rtol: float = 1e-4,
) -> None:
    """Check an evidence method for one model at one θ, which may have scales of exactly zero.

    All values are finite; the gradient and the Hessian (if there is one) equal differences; the posterior mean
    is a stationary point of the log joint density, if the method is ``modal``; a warm start changes nothing; a method
    that is ``exact`` agrees with the multivariate normal density of y.

    Parameters
    ----------
    method, model
        What to check.
    theta
        One vector (k,), or one for each target (V, k).
    gradient_rtol, hessian_rtol
        Tolerances, in units of the largest entry, in nats for each unit of log θ, but at least one.

    Raises
    ------
    AssertionError
        Something does not hold; the sentence says what, where, and by how much.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Exact, Laplace
    >>> from marglik.likelihoods import Gaussian
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import Flat, Ridge
    >>> from marglik.testing import check_evidence
    >>> x = np.linspace(-1, 1, 9)
    >>> model = LinearModel(Gaussian(), Flat(np.ones(9)) + Ridge(x), 2 * x + x**2)
    >>> for theta in ([1.5, 0.4], [0.0, 0.4]):
    ...     check_evidence(Exact(), model, theta)
    ...     check_evidence(Laplace(), model, theta)
    """
    theta = np.array(np.atleast_2d(np.asarray(theta, float)))
    theta = np.repeat(theta, model.n_targets, axis=0) if len(theta) == 1 else theta
    V, k = theta.shape
    where = f"{type(method).__name__} at θ = {np.round(theta, 6).tolist()}"
    unsuited = method.unsuited(model)
    require(unsuited is None, f"{where}: the method {unsuited}.")
    e = evaluate(method, model, theta)
    require(not e.checks, f"{where}: {' '.join(e.checks.values())}")
    fits = np.shape(e.log_value) == (V,) and np.shape(e.gradient) == (V, k)
    require(fits, f"{where}: log_value and gradient must have shapes ({V},) and ({V}, {k}).")
    finite = np.isfinite(e.log_value).all() and np.isfinite(e.gradient).all()
    require(finite, f"{where}: log_value is {e.log_value} and the gradient {e.gradient.tolist()}.")

    paths = _paths(method, model, theta)
    _check_derivatives(method, model, paths, e, gradient_rtol, hessian_rtol, where)
    if method.modal:
        _check_stationary(model, theta, e, where)
    nearby = evaluate(method, model, np.where(theta == 0, paths.units / 10, theta * 1.1)).posterior
    warm = evaluate(method, model, theta, nearby).log_value
    agree(warm, e.log_value, 1e-9, f"{where}: a warm start changes the value", 1 + np.abs(e.log_value))
    if method.exact and isinstance(model, LinearModel):
        truth = np.array([_dense_log_evidence(model.target(v), theta[v]) for v in range(V)])
        what = f"{where}: the log evidence is not the log density of y"
        agree(e.log_value, truth, 1e-9, what, 1 + np.abs(truth))


class _Paths(NamedTuple):
    """Coordinates t along which the evidence is smooth: φ, or θ in units of its own where φ is infinite."""

    names: Hyperparameters
    theta: Float[Array, "V k"]
    units: Float[Array, "k"]
    at_end: Bool[Array, "k"]

    def moved(self, i: int, t: float) -> Float[Array, "V k"]:
        theta = self.theta.copy()
        if self.at_end[i]:
            theta[:, i] += t * self.units[i]
        else:
            support = self.names[i].support
            theta[:, i] = support.from_unconstrained(support.to_unconstrained(theta[:, i]) + t)
        return theta

    def slopes(self, theta: Float[Array, "V k"]) -> tuple[Array, Array]:
        """dθ/dt and d²θ/dt²."""
        first, second = self.names.derivatives(theta)
        return np.where(self.at_end, self.units, first), np.where(self.at_end, 0.0, second)


def _paths(method: EvidenceMethod, model: Model, theta: Array) -> _Paths:
    """With units at which a scale, leaving zero, changes the evidence by less than a hundredth of a nat."""
    names = model.hyperparameters
    phi = [[h.support.to_unconstrained(x) for x, h in zip(row, names, strict=True)] for row in theta]
    at_end = np.atleast_1d(np.isinf(phi).any(axis=0))
    sizes = np.median(np.atleast_2d(model.start_theta()), axis=0)
    inwards = np.where([x == h.support.upper for x, h in zip(theta[0], names, strict=True)], -1.0, 1.0)
    paths = _Paths(names, theta, np.where(sizes > 0, sizes, 1.0) * inwards, at_end)
    base = evaluate(method, model, theta).log_value
    for i in map(int, np.flatnonzero(paths.at_end)):
        while np.abs(evaluate(method, model, paths.moved(i, 1.0)).log_value - base).max() > 0.01:
            paths.units[i] /= 2
    return paths


def _check_derivatives(
    method: EvidenceMethod,
    model: Model,
    paths: _Paths,
    e: Evidence,
    rtol: float,
    hessian_rtol: float,
    where: str,
) -> None:
    first, second = paths.slopes(paths.theta)
    stated, k = e.gradient * first, len(paths.names)
    size = np.maximum(1, np.abs(stated).max(axis=1, initial=0))
    H = None if e.hessian is None else e.hessian * first[:, :, None] * first[:, None, :]
    if H is not None:
        H[:, range(k), range(k)] += e.gradient * second
        require(np.isfinite(H).all(), f"{where}: the Hessian is not finite.")

    def at(theta: Array) -> Array:
        there = evaluate(method, model, theta)
        return np.column_stack([there.log_value, there.gradient * paths.slopes(theta)[0]])

    for i, h in enumerate(paths.names):
        numeric = derivative(lambda t, i=i: at(paths.moved(i, t)), one_sided=bool(paths.at_end[i]))  # type: ignore[misc]
        what = f"{where}: the gradient in {h.name!r} differs from differences"
        agree(stated[:, i], numeric[:, 0], rtol, what, size)
        if H is not None:
            what = f"{where}: the Hessian's row {h.name!r} differs from differences of the gradient"
            agree(
                H[:, i],
                numeric[:, 1:],
                hessian_rtol,
                what,
                np.maximum(1, np.abs(H).max(axis=(1, 2)))[:, None],
            )


def _check_stationary(model: Model, theta: Array, e: Evidence, where: str) -> None:
    """The score at the posterior mean is zero, in units of posterior standard deviations or of its parts."""
    if isinstance(e.posterior, Gaussian):
        score = model.compact(theta[0]).at(e.posterior.mean, theta[0]).score
        what = f"{where}: distance of the posterior mean from the mode, in standard deviations"
        agree(np.sqrt(score @ e.posterior.precision.solve(score)), 0.0, 1e-6, what)
    if isinstance(e.posterior, TermPosterior) and isinstance(model, LinearModel):
        noisy = (theta[:, model.n_prior_theta :] != 0).all(axis=1)  # without noise there is no score
        for v in map(int, np.flatnonzero(noisy)):
            mean = {t: m if model.rows.y.ndim == 1 else m[v] for t, m in e.posterior.mean.items()}
            _check_normal_equations(model.target(v), theta[v], mean, f"{where}, target {v}")


def _check_normal_equations(model: LinearModel, theta: Array, mean: dict[str, Array], where: str) -> None:
    """Where the score is zero, v_t = L_t L_tᵀ X_tᵀ ∂log p/∂η of w_t = μ + Mv_t, and X_tᵀ ∂log p/∂η = 0 if flat."""
    rows = model.rows
    eta = sum(
        (t.design @ mean[t.label] for t in model.prior),
        np.zeros(rows.n) if rows.offset is None else rows.offset,
    )
    slope = model.likelihood.derivatives(np.asarray(rows.y, float), eta, theta[model.n_prior_theta :])[0]
    slope = slope * np.prod([w for w in (rows.weights, rows.counts) if w is not None], axis=0)
    for term, own in model.term_theta(theta):
        pull, size = term.columns.T @ slope, np.linalg.norm(term.columns, axis=0) * np.linalg.norm(slope)
        L = np.ones(len(pull)) if term.flat else term.factor(own)
        w, L2 = (0.0, 1.0) if term.flat else (mean[term.label], L @ L.T if term.kernel else L**2)
        expected = pull if term.flat else term.weights(L2 @ pull if term.kernel else L2 * pull)
        what = f"{where}: {term.label!r} is not where the score is zero"
        agree(w, expected, 1e-7, what, np.abs(w).max(initial=0) + np.max(L2 * size, initial=0) + 1e-300)


def _dense_log_evidence(model: LinearModel, theta: Float[Array, "k"]) -> float:
    """The definition, from the covariance of y: y ~ N(Xβ, K), K = σ² diag(1/weights) + Σ_t X_t L_t L_tᵀ X_tᵀ."""
    rows = model.rows
    i = np.repeat(np.arange(rows.n), 1 if rows.counts is None else np.asarray(rows.counts, int))
    K = theta[-1] ** 2 * np.diag(np.ones(len(i)) if rows.weights is None else 1 / rows.weights[i])
    for term, own in model.term_theta(theta):
        if not term.flat:
            L = term.factor(own)
            X = (term.columns @ L if L.ndim == 2 else term.columns * L)[i]
            K += (X @ X.T) * (term.codes[i, None] == term.codes[i] if term.grouped else 1)  # type: ignore[attr-defined]
    y = np.asarray(rows.y, float).reshape(-1)[i] - (0 if model.offset is None else model.offset[i])
    X = np.column_stack([np.zeros((len(i), 0)), *(t.columns[i] for t in model.prior if t.flat)])
    half = np.linalg.cholesky(K)
    Q, R = np.linalg.qr(solve_triangular(half, X, lower=True))
    z = solve_triangular(half, y, lower=True)
    z = z - Q @ (Q.T @ z)
    value = -len(i) * LOG_2PI / 2 - np.log(half.diagonal()).sum() - z @ z / 2
    integrated = len(R) * LOG_2PI / 2 - np.log(np.abs(R.diagonal())).sum()
    return float(value + integrated * model.reml)
