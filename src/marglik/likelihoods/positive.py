# SPDX-License-Identifier: BSD-3-Clause
"""Responses above zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import exp, expm1, log

from marglik.hyperparameters import Hyperparameter
from marglik.likelihoods.base import POSITIVE_NUMBERS, Likelihood
from marglik.likelihoods.special import LOG_2PI, stirling, stirling_slope


@dataclass(frozen=True)
class Gamma(Likelihood):
    """Positive numbers whose scatter is a constant share of their mean.

        y_i = μ_i g_i,    μ = exp(η),    g_i ~ Gamma with mean 1 and variance 1/k,    k = shape

    Concave in η, so the posterior mode is unique. With k = 1 it is the exponential distribution.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Gamma
    >>> Gamma().log_density(np.array([3.0]), np.log([2.0]), [1.0]).round(4)
    array([-2.1931])
    """

    outcomes = POSITIVE_NUMBERS
    concave = True
    link = "log"

    def hyperparameters(self):
        return (Hyperparameter("shape", unbounded=True),)

    def log_density(self, y, eta, theta):
        """With z = y/μ: k (log z − z + 1) + ½ log k/2π − δ(k) − log y, where δ is Stirling's error."""
        (k,) = theta
        log_y = log(y)
        log_z = log_y - eta
        return k * (log_z - expm1(log_z)) + (log(k) - LOG_2PI) / 2 - stirling(k) - log_y

    def derivatives(self, y, eta, theta):
        (k,) = theta
        above = expm1(log(y) - eta)
        second = -k * (1 + above)
        return k * above, second, -second

    def expected_information(self, eta, theta):
        """k, whatever μ is."""
        return np.full(np.shape(eta), theta[0], float)

    def theta_derivatives(self, y, eta, theta):
        (k,) = theta
        log_z = log(y) - eta
        above = expm1(log_z)
        return [(log_z - above + 0.5 / k - stirling_slope(k), above, -(1 + above))]

    def averaged(self, y, eta, variance, theta):
        """E y/μ = exp(v/2) y/exp(η)."""
        (k,) = theta
        value = self.log_density(y, eta - variance / 2, theta) - k * variance / 2
        return value, *self.derivatives(y, eta - variance / 2, theta)

    def averaged_theta(self, y, eta, variance, theta):
        ((value, *slopes),) = self.theta_derivatives(y, eta - variance / 2, theta)
        return [(value - variance / 2, *slopes)]

    def mean(self, eta, theta):
        return exp(eta)

    def variance(self, eta, theta):
        return exp(2 * eta) / theta[0]

    def sample(self, eta, theta, rng):
        (k,) = theta
        return exp(eta) * rng.standard_gamma(k, np.shape(eta)) / k

    def deviance(self, y, eta, theta):
        log_z = log(y) - eta
        return 2 * theta[0] * (expm1(log_z) - log_z)

    def start(self, y):
        return float(log(np.mean(y)))

    def start_theta(self, y):
        """From var[y] = μ²/k."""
        spread = np.var(y)
        return (float(np.clip(np.mean(y) ** 2 / spread if spread > 0 else np.inf, 0.1, 1e4)),)
