# SPDX-License-Identifier: BSD-3-Clause
"""All that there is to check about a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marglik.check.approximation import approximation
from marglik.check.consistency import Consistency, consistency
from marglik.check.verdict import Check, remedy
from marglik.evidence.importance import LEAST
from marglik.model import LinearModel
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from marglik.fitted import Fit


def checked(fit: Fit, simulations: int = 0, draws: int | None = None, seed: int = 0, quick: bool = False) -> Check:
    """The check of a fit; see `Fit.check`. A quick one leaves out what takes more than a few tenths of a second."""
    for name, value, least in (("simulations", simulations, 0), ("draws", draws, LEAST)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < least):
            raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}.")
    method, optimum, model = fit.evidence_method, fit.optimum, fit.model
    names, simulated = model.hyperparameters, _consistency(fit, simulations, seed) if simulations else None
    many = model.n_targets > 1
    if many and not method.batched(model):
        return Check.of(optimum, names, method.exact, {})
    evidence = fit._evidence
    if many or method.exact or evidence.checks or not np.all(optimum.converged):
        return Check.of(optimum, names, method.exact, evidence.checks, consistency=simulated)
    assessed = method.assessed(model, optimum.theta[0], optimum.warm)
    found = approximation(model, optimum, evidence, draws, seed, quick)
    return Check.of(optimum, names, False, evidence.checks, assessed, found, simulated, remedy(model, method))


def _consistency(fit: Fit, n: int, seed: int) -> Consistency:
    model = fit.model
    if not isinstance(model, LinearModel):
        raise Unsupported(
            "simulations= is for linear models: how to simulate a program's data is not known. Simulate with "
            "numpyro.infer.Predictive at the estimates, and fit what comes out."
        )
    if model.rows.y.ndim == 2:
        raise ValueError("simulations= is for one target at a time; check fit.target(0).")
    theta, free = fit.optimum.theta[0], fit.optimum.free[0]
    return consistency(fit.evidence_method, model, theta, free, fit.posterior.mean, n, seed)
