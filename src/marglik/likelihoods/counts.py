# SPDX-License-Identifier: BSD-3-Clause
"""Counts without an upper end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import exp, log, log1p
from scipy.special import xlogy

from marglik.hyperparameters import Hyperparameter
from marglik.likelihoods.base import COUNTS, Likelihood
from marglik.likelihoods.special import (
    log_factorial,
    log_rising,
    log_rising_slope,
    over_counts,
    share_less_log1p,
)


@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counts, with rate exp(η).

        y_i ~ Poisson(exp(η_i))

    Concave in η, so the posterior mode is unique. An exposure enters as ``offset(log(exposure))``.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Poisson
    >>> Poisson().log_density(np.array([3.0]), np.log([2.0]), []).round(4)
    array([-1.7123])
    """

    outcomes = COUNTS
    concave = True
    link = "log"

    def log_density(self, y, eta, theta):
        return self.log_kernel(y, eta, theta) + self.log_base(y)

    def log_base(self, y):
        return -log_factorial(y)

    def log_kernel(self, y, eta, theta):
        return y * eta - exp(eta)

    def slope(self, y, eta, theta):
        return y - exp(eta)

    def derivatives(self, y, eta, theta):
        rate = exp(eta)
        return y - rate, -rate, -rate

    def theta_derivatives(self, y, eta, theta):
        return []

    def averaged(self, y, eta, variance, theta):
        """E exp(η) = exp(η + v/2)."""
        rate = exp(eta + variance / 2)
        return y * eta - rate, y - rate, -rate, -rate

    def mean(self, eta, theta):
        return exp(eta)

    def variance(self, eta, theta):
        return exp(eta)

    def sample(self, eta, theta, rng):
        return rng.poisson(exp(eta)).astype(float)

    def deviance(self, y, eta, theta):
        return 2 * (xlogy(y, y) - y * eta - (y - exp(eta)))

    def start(self, y):
        return _log_mean(y)


@dataclass(frozen=True)
class NegativeBinomial(Likelihood):
    """Counts that vary more than a Poisson's.

        y_i ~ Poisson(μ_i g_i),    μ = exp(η),    g_i ~ Gamma with mean 1 and variance 1/s,    s = size

    var[y] = μ + μ²/s. Concave in η. As s → ∞ it is the Poisson.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import NegativeBinomial
    >>> NegativeBinomial().log_density(np.array([3.0]), np.log([2.0]), [1.0]).round(4)
    array([-2.315])
    """

    outcomes = COUNTS
    concave = True
    link = "log"

    def hyperparameters(self):
        return (
            Hyperparameter(
                "size", without_end="the counts vary no more than a Poisson's, so family='poisson' suffices"
            ),
        )

    def log_density(self, y, eta, theta):
        return self.log_kernel(y, eta, theta) + self.log_base(y)

    def log_base(self, y):
        return -log_factorial(y)

    def log_kernel(self, y, eta, theta):
        """log Γ(y + s)/Γ(s)sʸ + yη − (y + s) log(1 + μ/s)."""
        (s,) = theta
        return over_counts(lambda k: log_rising(k, s), y) + y * eta - (y + s) * log1p(exp(eta) / s)

    def derivatives(self, y, eta, theta):
        """With a share v = s/(s + μ) of the variance Poisson's: (y − μ) v, −(y + s) v (1 − v), …."""
        (s,) = theta
        mu = exp(eta)
        v, w = s / (s + mu), mu / (s + mu)
        second = -(y + s) * v * w
        return (y - mu) * v, second, second * (v - w)

    def theta_derivatives(self, y, eta, theta):
        (s,) = theta
        mu = exp(eta)
        v, w = s / (s + mu), mu / (s + mu)
        rising = over_counts(lambda k: log_rising_slope(k, s), y)
        return [
            (
                rising + y * w / s + share_less_log1p(mu / s),
                (y - mu) * v * w / s,
                -v * w * (y * (w - v) + 2 * s * w) / s,
            )
        ]

    def mean(self, eta, theta):
        return exp(eta)

    def variance(self, eta, theta):
        return exp(eta) * (1 + exp(eta) / theta[0])

    def sample(self, eta, theta, rng):
        (s,) = theta
        return rng.poisson(exp(eta) * rng.standard_gamma(s, np.shape(eta)) / s).astype(float)

    def deviance(self, y, eta, theta):
        (s,) = theta
        mu = exp(eta)
        return 2 * (xlogy(y, y) - y * eta - (y + s) * log1p((y - mu) / (s + mu)))

    def start(self, y):
        return _log_mean(y)

    def start_theta(self, y):
        """From var[y] = μ + μ²/s."""
        mean, extra = np.mean(y), np.var(y) - np.mean(y)
        return (float(np.clip(mean**2 / extra if extra > 0 else np.inf, 0.1, 100.0)),)


def _log_mean(y: np.ndarray) -> float:
    """log of the mean, with half a count added so that it is finite."""
    return float(log(np.mean(y) + 0.5 / len(y)))
