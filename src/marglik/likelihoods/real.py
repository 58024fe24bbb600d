# SPDX-License-Identifier: BSD-3-Clause
"""Responses on the whole real line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import log, log1p

from marglik.hyperparameters import Hyperparameter, Positive
from marglik.likelihoods.base import REAL_NUMBERS, Likelihood
from marglik.likelihoods.special import LOG_2PI, log_rising, log_rising_slope, share_less_log1p

NOISE = (Hyperparameter("sd(noise)", Positive(), even=True),)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Real numbers with additive noise.

        y_i ~ N(η_i, σ²),    σ = sd(noise)

    Quadratic in η, so the evidence has a closed form.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Gaussian
    >>> Gaussian().hyperparameters()[0].name
    'sd(noise)'
    >>> Gaussian().log_density(np.array([1.0]), np.array([0.0]), [2.0]).round(4)
    array([-1.7371])
    """

    outcomes = REAL_NUMBERS
    concave = True
    gaussian = True
    located = True

    def hyperparameters(self):
        return NOISE

    def log_density(self, y, eta, theta):
        (sigma,) = theta
        return -LOG_2PI / 2 - log(sigma) - ((y - eta) / sigma) ** 2 / 2

    def derivatives(self, y, eta, theta):
        (sigma,) = theta
        return (y - eta) / sigma**2, np.full(np.shape(eta), -1 / sigma**2), np.zeros(np.shape(eta))

    def theta_derivatives(self, y, eta, theta):
        (sigma,) = theta
        r = (y - eta) / sigma
        return [((r**2 - 1) / sigma, -2 * r / sigma**2, np.full(np.shape(eta), 2 / sigma**3))]

    def averaged(self, y, eta, variance, theta):
        """E (y − η)² = (y − η)² + v."""
        return self.log_density(y, eta, theta) - variance / theta[0] ** 2 / 2, *self.derivatives(y, eta, theta)

    def averaged_theta(self, y, eta, variance, theta):
        ((value, *slopes),) = self.theta_derivatives(y, eta, theta)
        return [(value + variance / theta[0] ** 3, *slopes)]

    def mean(self, eta, theta):
        return eta

    def variance(self, eta, theta):
        return np.full(np.shape(eta), theta[0] ** 2)

    def sample(self, eta, theta, rng):
        return eta + theta[0] * rng.standard_normal(np.shape(eta))

    def deviance(self, y, eta, theta):
        return ((y - eta) / theta[0]) ** 2

    def start(self, y):
        return float(np.mean(y))

    def start_theta(self, y):
        return (float(np.std(y)),)


@dataclass(frozen=True)
class StudentT(Likelihood):
    """Real numbers with heavy-tailed noise: outliers pull less the farther out they are.

        y_i = η_i + σ t_i,    t_i ~ Student t with ν degrees of freedom,    σ = scale,    ν = df

    Not concave in η. As ν → ∞ it is the Gaussian; its variance is σ²ν/(ν − 2), infinite for ν ≤ 2.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import StudentT
    >>> StudentT().log_density(np.array([3.0]), np.array([0.0]), [1.0, 1.0]).round(4)
    array([-3.4473])
    """

    outcomes = REAL_NUMBERS
    located = True

    def hyperparameters(self):
        return Hyperparameter("scale", bottomless=True), Hyperparameter(
            "df",
            Positive(unit=5.0),
            without_end="the tails are no heavier than a Gaussian's, so family='gaussian' suffices",
        )

    def log_density(self, y, eta, theta):
        sigma, nu = theta
        r = (y - eta) / sigma
        return log_rising(0.5, nu / 2) - LOG_2PI / 2 - log(sigma) - (nu + 1) / 2 * log1p(r**2 / nu)

    def derivatives(self, y, eta, theta):
        """With h = (ν + 1) / (ν + r²): h r/σ, h (r² − ν)/(ν + r²)/σ², 2 h r (r² − 3ν)/(ν + r²)²/σ³."""
        sigma, nu = theta
        r = (y - eta) / sigma
        Q = nu + r**2
        h, near, far = (nu + 1) / Q, nu / Q, r**2 / Q
        return h * r / sigma, h * (far - near) / sigma**2, 2 * h * r * (far - 3 * near) / Q / sigma**3

    def theta_derivatives(self, y, eta, theta):
        sigma, nu = theta
        r = (y - eta) / sigma
        Q = nu + r**2
        h, near, far = (nu + 1) / Q, nu / Q, r**2 / Q
        in_scale = (
            (h * r**2 - 1) / sigma,
            -2 * h * near * r / sigma**2,
            -2 * h * near * (3 * far - near) / sigma**3,
        )
        in_df = (
            (log_rising_slope(0.5, nu / 2) + share_less_log1p(r**2 / nu) + far / nu) / 2,
            r * (r**2 - 1) / Q**2 / sigma,
            (far**2 - 3 * far * near + (near - 3 * far) / Q) / Q / sigma**2,
        )
        return [in_scale, in_df]

    def expected_information(self, eta, theta):
        sigma, nu = theta
        return np.full(np.shape(eta), (nu + 1) / (nu + 3) / sigma**2)

    def mean(self, eta, theta):
        """The location η: the mean where ν > 1, the median always."""
        return eta

    def variance(self, eta, theta):
        sigma, nu = theta
        return np.full(np.shape(eta), sigma**2 * nu / (nu - 2) if nu > 2 else np.inf)

    def sample(self, eta, theta, rng):
        return eta + theta[0] * rng.standard_t(theta[1], np.shape(eta))

    def deviance(self, y, eta, theta):
        sigma, nu = theta
        return (nu + 1) * log1p(((y - eta) / sigma) ** 2 / nu)

    def start(self, y):
        return float(np.median(y))

    def start_theta(self, y):
        spread = 1.4826 * np.median(np.abs(y - np.median(y)))
        return float(spread if spread > 0 else np.std(y)), 5.0
