# SPDX-License-Identifier: BSD-3-Clause
"""Is θ̂ itself sound? Where the evidence is the integral, its slope at θ̂ is zero on average over data from the fit.

With scores s_1 … s_N, the slopes in φ at θ̂ of the evidence of N simulated data sets, mean s̄ and covariance S,

    T² = N s̄ᵀS⁻¹s̄,    (N − k) T² / (k (N − 1)) ~ F(k, N − k)  if E s = 0
    bias of φ̂ ≈ S⁻¹ s̄

because the covariance of the score is the information. Outside the Gaussian the scores are those of the objective with
fixed effects maximised, for with them integrated the simulated data come from one value of what is integrated over; in
the Gaussian case the restricted likelihood does not depend on them. A program draws what it integrates over anew for
each data set, from its prior, so that its scores need no other objective.

References
----------
Kristensen, Nielsen, Berg, Skaug & Bell (2016), J. Stat. Softw. 70(5), §2.7 (`checkConsistency`). Hotelling (1931), Ann.
Math. Stat. 2, 360.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import fdtrc

from marglik.model import LinearModel
from marglik.simulation import simulate
from marglik.validate import Unsupported, counted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray as Array

    from marglik.evidence import EvidenceMethod
    from marglik.model import Model

DOUBTFUL = 0.01
"""A p-value below which scores are taken not to be centred."""


@dataclass(frozen=True)
class Consistency:
    """Scores at θ̂ of data simulated from the fit.

    Attributes
    ----------
    simulations
        Data sets that were used; those whose evidence could not be computed are left out.
    p_value
        Of Hotelling's T² for a mean score of zero.
    bias
        Name → bias of the estimate that the mean score implies, on the unconstrained scale, in standard errors.
    """

    simulations: int
    p_value: float
    bias: Mapping[str, float]


class Replicates(NamedTuple):
    """A model, θ̂ and which of its coordinates were learned; the model with other data from it."""

    base: Model
    theta: Float[Array, "k"]
    free: Bool[Array, "k"]
    models: Iterable[Model]


def linear(
    model: LinearModel, theta: Float[Array, "k"], free: Bool[Array, "k"], means: Mapping[str, Array], n: int, seed: int
) -> Replicates:
    """n data sets of a linear model.

    Parameters
    ----------
    theta
        θ̂ of the prior and of the likelihood.
    free
        Which of its coordinates were learned.
    means
        Label → weights, of which those of the flat term are used.
    """
    maximised = bool(model.n_flat) and not model.likelihood.gaussian
    base = model.with_flat_in_theta(maximised)
    flat = np.concatenate([means[term.label] for term in model.prior if term.flat] or [np.zeros(0)])
    n_own = model.n_prior_theta + len(model.likelihood.hyperparameters())
    own, theta, free = theta[:n_own], theta[:n_own], free[:n_own]
    if maximised:
        theta = np.concatenate([theta, base.flat_basis.R @ flat])
        free = np.concatenate([free, np.ones(model.n_flat, bool)])
    base = base if base.reml or maximised else replace(base, reml=True)

    def models() -> Iterator[Model]:
        for y in simulate(model, own, means, n, seed):
            data = replace(base, rows=replace(base.rows, y=y))
            data.adopt(base)
            yield data

    return Replicates(base, theta, free, models())


def consistency(method: EvidenceMethod, replicates: Replicates, n: int) -> Consistency:
    """From n data sets."""
    base, theta, free, models = replicates
    k = int(free.sum())
    if not k:
        raise ValueError("simulations= checks hyperparameters that were learned, but all of this fit were held.")
    if n < k + 2:
        raise ValueError(
            f"simulations={n} data sets cannot tell whether {counted(k, 'score')} are centred: it takes {k + 2} or "
            "more, and 100 to see a bias of a third of a standard error."
        )
    scale = base.hyperparameters.derivatives(theta)[0][free]
    scores = []
    for data in models:
        e = method(data, theta[None] if method.batched(data) else theta)
        score = np.asarray(e.gradient).reshape(-1)[free] * scale
        if not e.checks and np.isfinite(score).all():
            scores.append(score)
    s = np.array(scores).reshape(len(scores), k)
    if len(s) < k + 2:
        raise Unsupported(
            f"Only {len(s)} of {n} simulated data sets have an evidence at the estimates, too few to judge them. "
            "Simplify the model, or look at fit.simulate(5)."
        )
    mean, S = s.mean(axis=0), np.atleast_2d(np.cov(s.T))
    try:
        half = np.linalg.cholesky(S)
    except np.linalg.LinAlgError:
        raise Unsupported(
            "The scores of simulated data sets do not vary in all directions, so nothing can be said of their mean. "
            "Hold a hyperparameter, or leave out a fixed effect, that the data do not tell."
        ) from None
    inverse = np.linalg.inv(half)
    inverse = inverse.T @ inverse
    N = len(s)
    t2 = float(N * mean @ inverse @ mean)
    p_value = float(fdtrc(k, N - k, (N - k) * t2 / (k * (N - 1))))
    names, J = in_own_names(base, np.flatnonzero(free))
    bias = J @ inverse @ mean / np.sqrt(np.einsum("ij,jk,ik->i", J, inverse, J))
    return Consistency(N, p_value, dict(zip(names, map(float, bias), strict=True)))


def in_own_names(model: Model, free: Int[Array, "k"]) -> tuple[list[str], Float[Array, "k k"]]:
    """Names of coordinates of θ, and what makes small steps of φ into theirs: fixed effects in place of their basis."""
    names, J = [model.hyperparameters.names[i] for i in free], np.eye(len(free))
    if isinstance(model, LinearModel) and model.flat_in_theta:
        first = len(model.hyperparameters) - model.n_flat
        flat = np.flatnonzero(free >= first)
        if len(flat) == model.n_flat:
            J[np.ix_(flat, flat)] = np.linalg.inv(model.flat_basis.R)
            names[flat[0] :] = model.flat_names
    return names, J
