# SPDX-License-Identifier: BSD-3-Clause
"""Responses strictly between zero and one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import log, log1p
from scipy.special import logit

from marglik.hyperparameters import Hyperparameter, Positive
from marglik.likelihoods.base import PROPORTIONS, Likelihood
from marglik.likelihoods.links import Logit
from marglik.likelihoods.special import LOG_2PI, log1pmx, polygammas, stirling, stirling_slope


@dataclass(frozen=True)
class Beta(Likelihood):
    """Proportions that are no counts out of a number of trials.

        y_i ~ Beta(μ_i φ, (1 − μ_i) φ),    μ = 1/(1 + e^−η),    φ = precision

    var[y] = μ(1 − μ)/(1 + φ). Not concave in η in general.

    References
    ----------
    Ferrari & Cribari-Neto (2004), Journal of Applied Statistics 31, 799–815.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Beta
    >>> Beta().log_density(np.array([0.3]), np.array([0.0]), [4.0]).round(4)
    array([0.2311])
    """

    outcomes = PROPORTIONS
    link = "logit"

    def hyperparameters(self):
        return (Hyperparameter("precision", Positive(unit=20.0), unbounded=True),)

    def log_density(self, y, eta, theta):
        """With a = μφ, b = νφ, ν = 1 − μ, and Stirling's error δ in place of log Γ:

        −φ KL(μ ‖ y) + ½ log φμν/2π + δ(φ) − δ(a) − δ(b) − log y(1 − y)
        """
        (phi,) = theta
        log_mu, log_nu = Logit().log_both(eta)
        log_a, log_b = log(phi) + log_mu, log(phi) + log_nu
        errors = stirling(phi) - stirling(np.exp(log_a), log_a) - stirling(np.exp(log_b), log_b)
        scale = (log(phi) + log_mu + log_nu - LOG_2PI) / 2 + errors
        return scale - phi * self._divergence(y, eta) - log(y) - log1p(-y)

    @staticmethod
    def _divergence(y, eta):
        """KL(μ ‖ y) = −μ log y/μ − ν log (1 − y)/ν, less d/μ and −d/ν with d = y − μ, which cancel."""
        log_mu, log_nu = Logit().log_both(eta)
        mu, nu = (np.maximum(p, np.finfo(float).tiny) for p in Logit().both(eta))
        d = np.where(mu < nu, y - mu, nu - (1 - y))
        return -mu * log1pmx(d / mu, log(y) - log_mu) - nu * log1pmx(-d / nu, log1p(-y) - log_nu)

    def derivatives(self, y, eta, theta):
        """With g = μν and c = ν − μ, the first is φg (logit y − ψ(a) + ψ(b)) = c + φgT.

        Here T = logit y − ψ(1 + a) + ψ(1 + b): without the poles at 0 nothing cancels in the tails.
        """
        (phi,) = theta
        (g, c), T, (T1, T2), _ = self._parts(y, eta, phi)
        k = phi * g
        first = c + k * T
        second = -2 * g + k * (c * T + T1)
        third = -2 * g * c + k * ((c**2 - 2 * g) * T + 2 * c * T1 + T2)
        return first, second, third

    def theta_derivatives(self, y, eta, theta):
        (phi,) = theta
        (g, c), T, (T1, _), (U, U1) = self._parts(y, eta, phi)
        mu, nu = Logit().both(eta)
        slope = (
            -self._divergence(y, eta)
            + 0.5 / phi
            + stirling_slope(phi)
            - mu * stirling_slope(mu * phi)
            - nu * stirling_slope(nu * phi)
        )
        k = phi * g
        return [(slope, g * (T + phi * U), g * (c * T + T1) + k * (c * U + U1))]

    @staticmethod
    def _parts(y, eta, phi):
        """(g, c), T, its first two derivatives in η, and the derivatives in φ of T and of its first."""
        mu, nu = Logit().both(eta)
        g, c = mu * nu, nu - mu
        a0, a1, a2 = polygammas(1 + phi * mu)
        b0, b1, b2 = polygammas(1 + phi * nu)
        k = phi * g
        T1 = -k * (a1 + b1)
        T2 = c * T1 - k**2 * (a2 - b2)
        U1 = T1 / phi - k * (mu * a2 + nu * b2)
        return (g, c), logit(y) - a0 + b0, (T1, T2), (nu * b1 - mu * a1, U1)

    def expected_information(self, eta, theta):
        """φ²g² (ψ′(a) + ψ′(b)), again without poles."""
        (phi,) = theta
        mu, nu = Logit().both(eta)
        trigammas = polygammas(1 + phi * mu)[1] + polygammas(1 + phi * nu)[1]
        return (phi * mu * nu) ** 2 * trigammas + mu**2 + nu**2

    def mean(self, eta, theta):
        return Logit().probability(eta)

    def variance(self, eta, theta):
        mu, nu = Logit().both(eta)
        return mu * nu / (1 + theta[0])

    def sample(self, eta, theta, rng):
        """Draws that round to 0 or 1 are the nearest number inside."""
        mu, nu = Logit().both(eta)
        draws = rng.beta(theta[0] * mu, theta[0] * nu)
        return np.clip(draws, np.finfo(float).tiny, np.nextafter(1, 0))

    def deviance(self, y, eta, theta):
        best = logit(y)
        for _ in range(STEPS):
            step = self.derivatives(y, best, theta)[0] / self.expected_information(best, theta)
            best = best + step
            if np.all(np.abs(step) < 1e-9):
                break
        return 2 * (self.log_density(y, best, theta) - self.log_density(y, eta, theta))

    def start(self, y):
        return float(logit(np.mean(y)))

    def start_theta(self, y):
        """From var[y] = μ(1 − μ)/(1 + φ)."""
        mean, spread = np.mean(y), np.var(y)
        return (float(np.clip(mean * (1 - mean) / spread - 1 if spread > 0 else np.inf, 0.1, 1e4)),)


STEPS = 100
"""Fisher's steps to the likeliest η of one y; far out each is about one."""
