# SPDX-License-Identifier: BSD-3-Clause
"""Simple Monte Carlo: the likelihood averaged over draws from the prior. The definition, kept for what it teaches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from marglik.evidence.base import Evidence, EvidenceMethod
from marglik.evidence.clouds import Held, Joint, scatter
from marglik.evidence.densities import densities
from marglik.evidence.importance import check_draws
from marglik.evidence.laplace import Laplace

DRAWS, LEAST = 16_384, 100
HEAVY = 0.1
"""A draw with a larger share of the average decides it, and what the standard error is made of."""


@dataclass(frozen=True)
class Simple(EvidenceMethod):
    """The likelihood averaged over independent draws from the prior, in log space.

        log p(y|θ) ≈ logsumexp_i log p(y|w_i,θ) − log N,    w_i ~ p(w|θ)

    The standard error is that of the mean over the mean (the delta method). It cannot exceed 1, and where one draw has
    most of the weight it says nothing: then a check does. That is the rule beyond a handful of weights, because next to
    no draw from the prior comes near the posterior.

    θ is learned with the draws held, from Laplace's θ̂; the posterior is Laplace's Gaussian.

    Parameters
    ----------
    draws
        How many.
    seed
        Of the random numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Simple
    >>> from marglik.likelihoods import Bernoulli
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import Ridge
    >>> model = LinearModel(Bernoulli(), Ridge(np.ones(6)), np.array([1, 1, 1, 0, 1, 1]))
    >>> e = Simple()(model, np.array([2.0]))
    >>> bool(abs(e.log_value + 3.74) < 4 * e.std_error < 0.1)
    True
    """

    draws: int = DRAWS
    seed: int = 0
    modal: ClassVar[bool] = False

    def __post_init__(self):
        check_draws(self.draws, LEAST, DRAWS)

    @property
    def first(self):
        return Laplace()

    def seeded(self, seed):
        return replace(self, seed=seed)

    def __call__(self, model, theta, start=None):
        if isinstance(start, Held):
            return start.evidence(theta)
        gaussian = Laplace()(model, theta, start).posterior
        model, path = model.compact(theta), model.path(theta)
        W = path.draws(self.draws, np.random.default_rng(self.seed))
        cloud = Joint(densities(model, W), path.at(W, 0.0).reference[:, None], model.log_volume)
        here = cloud.at(theta)
        if not np.isfinite(here.log_value):
            none = f"The likelihood is zero at each of {self.draws} draws from the prior. Use method='importance'."
            return Evidence(-np.inf, np.full(len(theta), np.nan), checks={"mode": none})
        largest, checks = float(here.weights.max()), {}
        if largest > HEAVY:
            checks["draws"] = (
                f"One of {self.draws} draws from the prior has {largest:.0%} of the weight, so that neither the "
                "evidence nor its standard error means much. Use method='importance', or more draws=."
            )
        held = Held(gaussian, cloud, here.share)
        return Evidence(here.log_value, lambda: here.gradient, None, float(scatter(here.log_weights)), held, checks)

    def posterior(self, model, theta, start=None):
        return Laplace().posterior(model, theta, start)

    def unsuited(self, model):
        if model.path(model.start_theta()[0]) is None:
            return "averages over draws from the prior, and flat weights have no prior that could be drawn from"
        return None

    def assessed(self, model, theta, start=None):
        error = self(model, theta).std_error
        return f"the integral is an average over {self.draws} draws from the prior: standard error {error:.1g} nats"
