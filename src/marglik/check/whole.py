# SPDX-License-Identifier: BSD-3-Clause
"""All that there is to check about a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marglik.check.approximation import approximation
from marglik.check.consistency import Consistency, Replicates, consistency, linear
from marglik.check.verdict import Check, remedy
from marglik.evidence.importance import LEAST
from marglik.model import LinearModel

if TYPE_CHECKING:
    from marglik.fitted import Fit


def checked(
    fit: Fit,
    simulations: int = 0,
    draws: int | None = None,
    seed: int = 0,
    quick: bool = False,
    anneal: bool | None = None,
) -> Check:
    """The check of a fit; see `Fit.check`. A quick one leaves out what takes more than a few tenths of a second."""
    for name, value, least in (("simulations", simulations, 0), ("draws", draws, LEAST)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < least):
            raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}.")
    if anneal not in (None, True, False):
        raise ValueError(f"anneal must be True, False, or None for where it is needed, not {anneal!r}.")
    method, optimum, model = fit.evidence_method, fit.optimum, fit.model
    names, simulated = model.hyperparameters, _consistency(fit, simulations, seed) if simulations else None
    many = model.n_targets > 1
    if many and not method.batched(model):
        return Check.of(optimum, names, method.exact, {})
    evidence, lower = fit._evidence, _lower(fit)
    exact = method.exact or not model.n_weights
    if many or exact or evidence.checks or not np.all(optimum.converged):
        return Check.of(optimum, names, exact, evidence.checks, consistency=simulated, lower=lower)
    assessed = method.assessed(model, optimum.theta[0], optimum.warm)
    found = approximation(model, optimum, evidence, draws, seed, quick, anneal)
    return Check.of(optimum, names, False, evidence.checks, assessed, found, simulated, remedy(model, method), lower)


def _lower(fit: Fit) -> list[float]:
    """By how many nats other maxima that were met are lower."""
    optimum = fit.optimum
    if optimum.others is None:
        return []
    return [float(optimum.value[0] - fit.objective.evaluate(theta[None])[0][0]) for theta in optimum.others]


def _consistency(fit: Fit, n: int, seed: int) -> Consistency:
    model = fit.model
    theta, free = fit.optimum.theta[0], fit.optimum.free[0]
    if isinstance(model, LinearModel):
        if model.rows.y.ndim == 2:
            raise ValueError("simulations= is for one target at a time; check fit.target(0).")
        return consistency(fit.evidence_method, linear(model, theta, free, fit.posterior.mean, n, seed), n)
    return consistency(fit.evidence_method, Replicates(model, theta, free, model.replicates(theta, n, seed)), n)
