# SPDX-License-Identifier: BSD-3-Clause
"""The contract of prior terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from marglik.hyperparameters import Hyperparameters
from marglik.testing.numbers import agree, check_names, derivative, require, theta_grid

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from marglik.priors import Term


def check_prior(
    term: Term,
    theta: Sequence[float] | None = None,
    scaled: Callable[[float], Term] | None = None,
    seed: int = 0,
) -> None:
    """Check that a prior term fits together and that its factor's derivatives are right.

    Columns, names and number of weights agree; `factor_jvp` equals differences and `factor_vjp` is its adjoint;
    the factor is proportional to the scales, so that a scale of zero is an ordinary point; `units` are values
    at which the term adds variance of order one to η.

    Parameters
    ----------
    term
        An instance.
    theta
        Hyperparameters at which to look.
    scaled
        c ↦ the same term with its columns multiplied by c; with it, units are checked to shrink by c.
    seed
        For the directions of derivatives.

    Raises
    ------
    AssertionError
        Something does not hold; the sentence says what, where, and by how much.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Ridge
    >>> from marglik.testing import check_prior
    >>> X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    >>> check_prior(Ridge(X), scaled=lambda c: Ridge(c * X))
    """
    owner = f"{type(term).__name__} {term.label!r}"
    X, names = term.columns, Hyperparameters(term.hyperparameters())
    require(X.ndim == 2, f"{owner}: columns must have two dimensions, but their shape is {X.shape}.")
    c, k = X.shape[1], len(names)
    require(len(term.names) == c, f"{owner}: {len(term.names)} names for {c} columns.")
    require(len(set(term.names)) == c, f"{owner}: two columns have the same name: {term.names}.")
    expected = c * len(term.levels) if term.grouped else c  # type: ignore[attr-defined]
    require(term.n_weights == expected, f"{owner}: n_weights is {term.n_weights}, but there are {expected}.")
    check_names(names, owner)
    require(term.flat + term.grouped + term.kernel < 2, f"{owner}: a term is flat, grouped or a kernel, not several.")
    require(not (term.flat and k), f"{owner}: a flat term can have no hyperparameters, but has {names.names}.")
    units = np.asarray(term.units(), float)
    scales = np.array([h.even for h in names], bool)
    usable = units.shape == (k,) and np.isfinite(units).all() and (units >= 0).all() and (units[scales] > 0).all()
    require(usable, f"{owner}: units must be {k} positive numbers (zero off a factor's diagonal), but are {units}.")

    inside = theta_grid(names) if theta is None else [np.asarray(theta, float)]
    rng = np.random.default_rng(seed)
    for point in [*inside, *(np.where(drop, 0.0, x) for x in inside for drop in _scale_sets(scales))]:
        _check_factor(term, point, scales, rng, f"{owner} at θ = {tuple(map(float, point))}")
    for point in inside if k else ():
        _check_covariance(term, point, f"{owner} at θ = {tuple(map(float, point))}")
    for i in np.flatnonzero(scales):
        L = term.factor(np.where(scales, units * (np.arange(k) == i), inside[0]))
        added = np.mean(np.sum((X @ L if L.ndim == 2 else X * L) ** 2, axis=1))
        what = f"at its unit {units[i]:g}, {names.names[i]!r} adds variance {added:g} to η"
        require(1 / 30 < added < 30, f"{owner}: {what}, which is not of order one.")
    if scaled is not None:
        what = f"{owner}: columns times 100 must divide units by 100"
        agree(scaled(100.0).units() * 100, units, 1e-12, what, np.where(units > 0, units, 1.0))


def _scale_sets(scales: Array) -> Iterator[Array]:
    """Each scale by itself, then all of them."""
    for i in np.flatnonzero(scales):
        yield np.arange(len(scales)) == i
    if scales.sum() > 1:
        yield scales


def _check_covariance(term: Term, theta: Array, where: str) -> None:
    L, found = term.factor(theta), term.covariance(theta)
    agree(found, L @ L.T if L.ndim == 2 else L * L, 1e-10, f"{where}: the covariance is not LLᵀ", 1 + np.abs(found))
    first, second = term.covariance_tangents(theta), term.covariance_curvatures(theta)
    for i, direction in enumerate(np.eye(len(theta))):
        step = min(0.1, abs(theta[i]) / 4) if theta[i] else 0.01
        for what, own, of in (("", first[i], term.covariance), ("second ", second[i], term.covariance_tangents)):
            numeric = derivative(lambda t, d=direction, of=of: of(theta + t * d), step)  # type: ignore[misc]
            what = f"{where}: the {what}derivative of the covariance along coordinate {i} differs from differences"
            agree(own, numeric, 1e-7, what, 1 + np.abs(numeric))


def _check_factor(term: Term, theta: Array, scales: Array, rng: np.random.Generator, where: str) -> None:
    L, c = term.factor(theta), len(term.names)
    shape = (c, c) if term.grouped or term.kernel else (c,)
    require(np.shape(L) == shape, f"{where}: the factor must have shape {shape}, but has {np.shape(L)}.")
    require(np.isfinite(L).all(), f"{where}: the factor is not finite.")
    bar, k = rng.standard_normal(shape), len(theta)
    pulled = term.factor_vjp(theta, bar)
    require(np.shape(pulled) == (k,), f"{where}: factor_vjp must have shape ({k},).")
    for i, direction in enumerate(np.eye(k)):
        pushed = term.factor_jvp(theta, direction)
        require(np.shape(pushed) == shape, f"{where}: factor_jvp must have shape {shape}.")
        at_zero = bool(scales[i] and theta[i] == 0)
        step = 0.01 if at_zero or theta[i] == 0 else min(0.1, abs(theta[i]) / 4)
        numeric = derivative(lambda t, d=direction: term.factor(theta + t * d), step, at_zero)  # type: ignore[misc]
        what = f"{where}: factor_jvp along coordinate {i} differs from differences"
        agree(pushed, numeric, 1e-8, what, 1 + np.abs(numeric))
        adjoint = float(np.sum(bar * pushed))
        what = f"{where}: factor_vjp is not the adjoint of factor_jvp"
        agree(pulled[i], adjoint, 1e-10, what, 1 + abs(adjoint))
    if scales.any():
        double = term.factor(np.where(scales, 2 * theta, theta))
        agree(double, 2 * L, 1e-12, f"{where}: doubling the scales must double the factor", 1 + np.abs(L))
