# SPDX-License-Identifier: BSD-3-Clause
"""Data sets from a fitted linear model: y ~ p(y|w, θ̂) with w ~ p(w|θ̂) drawn anew and fixed effects as estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel


def simulate(
    model: LinearModel, theta: Float[Array, "k"], means: Mapping[str, Array], n: int, seed: int
) -> Float[Array, "s n"]:
    """Responses for the rows of a model, one data set a row.

    Parameters
    ----------
    model
        One target.
    theta
        Its hyperparameters.
    means
        Label → weights, of which those of the flat term are used.
    n, seed
        Number of data sets, and of the random generator.

    Raises
    ------
    ValueError
        Rows stand for several observations each, or weights multiply log densities: neither is a distribution of y;
        or the number of data sets is none.
    """
    rows, likelihood = model.rows, model.likelihood
    if rows.counts is not None or (rows.weights is not None and not likelihood.gaussian):
        what = "rows that stand for several observations" if rows.counts is not None else "weighted log densities"
        raise ValueError(f"simulate needs one outcome a row, but this model has {what}. Fit without them to simulate.")
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a whole number of data sets, 1 or more, not {n!r}.")
    rng = np.random.default_rng(seed)
    eta = np.zeros((n, rows.n)) if rows.offset is None else np.tile(rows.offset, (n, 1))
    for term, own in model.term_theta(theta):
        if term.flat:
            eta += term.columns @ means[term.label]
        elif term.grouped:
            L = term.factor(own)
            w = rng.standard_normal((n, len(term.levels), len(L))) @ L.T  # type: ignore[attr-defined]
            eta += np.einsum("nm,snm->sn", term.columns, w[:, term.codes])  # type: ignore[attr-defined]
        else:
            u, L = rng.standard_normal((n, term.n_weights)), term.factor(own)
            w = term.weights(u @ L.T if term.kernel else u * L)
            eta += w @ term.design.T
    own = theta[model.n_prior_theta :]
    y = np.asarray(likelihood.sample(eta, own, rng), float)
    return y if rows.weights is None else eta + (y - eta) / np.sqrt(rows.weights)
