# SPDX-License-Identifier: BSD-3-Clause
"""`Fit.effect`: a smooth as a curve with its band."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from marglik import learn
from marglik.model import LinearModel
from marglik.posterior.base import NewRows, TermPosterior
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.fitted import Fit

STEP = 1e-3
"""In φ, of central differences: their error is of the order of its square."""


def effect(fit: Fit, label: str, at: Any, n: int | None, interval: float, hyperparameters: bool) -> DataFrame:
    """See `Fit.effect`."""
    if fit.source is None or not hasattr(fit.source, "effect_rows"):
        raise Unsupported("effect is for smooths of formulas, 'y ~ s(x)'. A model of arrays has predict(include=…).")
    if not 0 < interval < 1:
        raise ValueError(f"interval must be a probability between 0 and 1, such as 0.95, not {interval!r}.")
    if n is not None and (isinstance(n, bool) or n != int(n) or n < 2):
        raise ValueError(f"n must be a whole number of points, 2 or more, not {n!r}.")
    shown, rows = fit.source.effect_rows(label, at, n)
    centre, variance = fit._linear_predictor(fit._terms("smooths"), rows)
    if centre.ndim > 1:
        raise ValueError("effect is for one target at a time; take fit.target(v).")
    if hyperparameters:
        J, V = slopes(fit, rows)
        variance = variance + np.einsum("nk,kl,nl->n", J, V, J)
    se = np.sqrt(variance)
    half = ndtri((1 + interval) / 2) * se
    return shown.reset_index(drop=True).assign(estimate=centre, se=se, lower=centre - half, upper=centre + half)


def slopes(fit: Fit, rows: NewRows) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """∂E[η]/∂φ and the covariance of φ, over hyperparameters that are neither held nor at a boundary.

    Flat weights are in E[η] as they are given θ, whether the fit integrated them or not.
    """
    model, optimum = fit.model, fit.optimum
    assert isinstance(model, LinearModel)
    own = [i for i, h in enumerate(model.hyperparameters) if not h.fixed_effect]
    V = learn.covariance(optimum)[0][np.ix_(own, own)]
    free = np.flatnonzero(optimum.free[0][own])
    if np.isnan(V[np.ix_(free, free)]).any():
        raise ValueError(
            "The evidence does not curve down in every direction at the estimate, so θ has no covariance. Leave "
            "hyperparameters= out; fit.check() says more."
        )
    joint = replace(model.with_flat_in_theta(False), reml=True)
    objective = learn.Objective(fit.evidence_method, joint)
    names = joint.hyperparameters
    phi = names.unconstrain(optimum.theta[:, own])

    def mean(moved: Float[Array, "1 k"]) -> Float[Array, "n"]:
        theta = np.where(optimum.free[:, own], names.constrain(moved), optimum.theta[:, own])
        place = learn.Located(objective, theta, np.zeros(len(own), bool))
        there = replace(fit, model=joint, optimum=place, objective=objective)
        posterior = there.posterior
        assert isinstance(posterior, TermPosterior)
        return posterior.linear_predictor(rows)[0]

    J = [(mean(phi + STEP * e) - mean(phi - STEP * e)) / (2 * STEP) for e in np.eye(len(own))[free]]
    n = len(next(iter(rows.columns.values())))
    return np.array(J).reshape(len(free), n).T, V[np.ix_(free, free)]
