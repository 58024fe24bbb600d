# SPDX-License-Identifier: BSD-3-Clause
"""Successes in one trial or in several, with probabilities that are exact in both tails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, xlogy

from marglik.likelihoods.base import BINARY, Likelihood, Outcomes
from marglik.likelihoods.links import LINKS

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """No or yes.

        y_i ~ Bernoulli(p(η_i)),    p = 1/(1 + e^−η) (logit), Φ(η) (probit) or 1 − exp(−e^η) (cloglog)

    Concave in η, so the posterior mode is unique.

    Parameters
    ----------
    link
        ``"logit"``, ``"probit"`` or ``"cloglog"``.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Bernoulli
    >>> y, eta = np.array([0.0, 1.0]), np.array([-40.0, -40.0])
    >>> Bernoulli().log_density(y, eta, [])
    array([-4.24835426e-18, -4.00000000e+01])
    >>> Bernoulli("probit").log_density(y, eta, []).round(2)
    array([   0.  , -804.61])
    """

    link: str = "logit"

    outcomes = BINARY
    concave = True
    links = tuple(LINKS)

    def __post_init__(self) -> None:
        self.check_link(self.link)

    def log_density(self, y, eta, theta):
        return LINKS[self.link].log_density(y, 1, eta)

    def derivatives(self, y, eta, theta):
        return LINKS[self.link].derivatives(y, 1, eta)

    def slope(self, y, eta, theta):
        return LINKS[self.link].slope(y, 1, eta)

    def theta_derivatives(self, y, eta, theta):
        return []

    def expected_information(self, eta, theta):
        return LINKS[self.link].information(eta)

    def mean(self, eta, theta):
        return LINKS[self.link].probability(eta)

    def variance(self, eta, theta):
        p = self.mean(eta, theta)
        return p * (1 - p)

    def sample(self, eta, theta, rng):
        return (rng.random(np.shape(eta)) < self.mean(eta, theta)).astype(float)

    def deviance(self, y, eta, theta):
        return -2 * self.log_density(y, eta, theta)

    def start(self, y):
        return float(LINKS[self.link].predictor((np.sum(y) + 0.5) / (len(y) + 1)))


@dataclass(frozen=True, eq=False)
class Binomial(Likelihood):
    """Number of successes in a given number of trials.

        y_i ~ Binomial(n_i, p(η_i)),    n = trials,    p as for Bernoulli

    Concave in η, so the posterior mode is unique. Predictions are probabilities, of one trial.

    Parameters
    ----------
    trials
        One number for all rows, or one for each row.
    link
        ``"logit"``, ``"probit"`` or ``"cloglog"``.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Binomial
    >>> Binomial(trials=[4, 10]).log_density(np.array([1.0, 7.0]), np.array([0.0, 0.0]), []).round(4)
    array([-1.3863, -2.144 ])
    """

    trials: float | Float[Array, "n"] = 1
    link: str = "logit"

    concave = True
    links = tuple(LINKS)

    def __post_init__(self) -> None:
        self.check_link(self.link)
        trials = np.asarray(self.trials, float)
        bad = np.flatnonzero(~((trials >= 0) & (trials == np.floor(trials)) & np.isfinite(trials)))
        if len(bad):
            where = f" in row {bad[0]}" if trials.ndim else ""
            raise ValueError(
                "trials must be a whole number from 0, one for all rows or one for each, but it is "
                f"{trials.flat[bad[0]]:g}{where}."
            )
        object.__setattr__(self, "trials", trials if trials.ndim else float(trials))

    @property
    def outcomes(self):
        return Outcomes("whole numbers from 0 to the row's number of trials", integer=True, lower=0, upper=self.trials)

    @property
    def needs_trials(self):
        return np.ndim(self.trials) == 0 and self.trials == 1

    def with_trials(self, trials):
        return replace(self, trials=trials)

    def of_one_trial(self):
        return replace(self, trials=1)

    def at_rows(self, rows):
        return self if np.ndim(self.trials) == 0 else replace(self, trials=np.asarray(self.trials)[rows])

    def log_density(self, y, eta, theta):
        return self.log_kernel(y, eta, theta) + self.log_base(y)

    def log_base(self, y):
        return gammaln(self.trials + 1) - gammaln(y + 1) - gammaln(self.trials - y + 1)

    def log_kernel(self, y, eta, theta):
        return LINKS[self.link].log_density(y, self.trials, eta)

    def derivatives(self, y, eta, theta):
        return LINKS[self.link].derivatives(y, self.trials, eta)

    def slope(self, y, eta, theta):
        return LINKS[self.link].slope(y, self.trials, eta)

    def theta_derivatives(self, y, eta, theta):
        return []

    def expected_information(self, eta, theta):
        return self.trials * LINKS[self.link].information(eta)

    def mean(self, eta, theta):
        return self.trials * LINKS[self.link].probability(eta)

    def variance(self, eta, theta):
        p = LINKS[self.link].probability(eta)
        return self.trials * p * (1 - p)

    def response(self, eta, theta):
        return LINKS[self.link].probability(eta)

    def observed(self, y):
        with np.errstate(invalid="ignore"):  # no trials
            return y / self.trials

    def sample(self, eta, theta, rng):
        p = LINKS[self.link].probability(eta)
        return rng.binomial(np.asarray(self.trials, int), p).astype(float)

    def deviance(self, y, eta, theta):
        n = self.trials
        best = xlogy(y, y) + xlogy(n - y, n - y) - xlogy(n, n)
        return 2 * (best - self.log_kernel(y, eta, theta))

    def start(self, y):
        trials = np.sum(np.broadcast_to(self.trials, np.shape(y)))
        return float(LINKS[self.link].predictor((np.sum(y) + 0.5) / (trials + 1)))
