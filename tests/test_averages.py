# SPDX-License-Identifier: BSD-3-Clause
"""Log densities averaged over the linear predictor, against adaptive integration and closed forms."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special

from marglik.likelihoods import (
    Bernoulli,
    Beta,
    Binomial,
    Gamma,
    Likelihood,
    NegativeBinomial,
    Poisson,
    StudentT,
    averages,
)
from marglik.likelihoods.averages import Averaged

CASES = {
    "logit": (Bernoulli(), 1.0, []),
    "probit": (Bernoulli("probit"), 1.0, []),
    "cloglog": (Bernoulli("cloglog"), 1.0, []),
    "beta": (Beta(), 0.3, [3.0]),
    "gamma": (Gamma(), 2.2, [1.7]),
    "negative_binomial": (NegativeBinomial(), 4.0, [0.6]),
    "poisson": (Poisson(), 4.0, []),
    "student_t": (StudentT(), 0.4, [0.8, 3.0]),
}


def integral(f, mean, sd):
    """E f(η) by adaptive integration, in pieces about the mean and about zero, where log densities bend."""
    ends = sorted(
        {-12.0, -3.0, 0.0, 3.0, 12.0, *np.clip(np.array([-4.0, -1.0, 0.0, 1.0, 4.0]) / sd - mean / sd, -12, 12)}
    )
    density = lambda z: np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
    parts = [
        integrate.quad_vec(lambda z: density(z) * np.ravel(f(mean + sd * z)), a, b, epsabs=1e-13, epsrel=1e-12)[0]
        for a, b in pairwise(ends)
    ]
    return np.sum(parts, axis=0)


@pytest.mark.parametrize("sd", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("name", CASES)
def test_against_adaptive_integration(name, sd):
    likelihood, y, theta = CASES[name]
    y, mean = np.array([y]), np.array([0.7])
    found = Averaged(likelihood, np.array([sd**2]))
    stated = [found.log_kernel(y, mean, theta), *found.derivatives(y, mean, theta)]
    stated += [d for one in found.theta_derivatives(y, mean, theta) for d in one]

    def integrands(eta):
        eta = np.array([eta])
        own = [d for one in likelihood.theta_derivatives(y, eta, theta) for d in one]
        return np.array([likelihood.log_kernel(y, eta, theta), *likelihood.derivatives(y, eta, theta), *own])

    with np.errstate(over="ignore"):
        truth = integral(integrands, 0.7, sd)
    np.testing.assert_allclose(np.ravel(stated), truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("gamma", "poisson")])
def test_derivatives_are_of_the_average(name):
    """∂/∂η E ℓ = E ℓ′ and ∂/∂v E ℓ = ½ E ℓ″."""
    likelihood, y, theta = CASES[name]
    y, eta, v, h = np.array([y]), np.array([0.3]), 2.0, 1e-4
    at = lambda e, v: float(Averaged(likelihood, np.array([v])).log_kernel(y, e, theta)[0])  # noqa: E731
    first, second, _ = Averaged(likelihood, np.array([v])).derivatives(y, eta, theta)
    np.testing.assert_allclose((at(eta + h, v) - at(eta - h, v)) / (2 * h), first[0], rtol=1e-6)
    np.testing.assert_allclose((at(eta, v + h) - at(eta, v - h)) / (2 * h), second[0] / 2, rtol=1e-6)


def test_rows_with_trials_of_their_own(monkeypatch):
    """Rows that need different nodes, and a few rows at a time."""
    trials, y = np.array([1.0, 50.0, 7.0, 3.0]), np.array([0.0, 31.0, 7.0, 1.0])
    eta, v = np.array([0.1, -3.0, 20.0, 0.0]), np.array([0.0, 400.0, 3.0, 1e-8])
    together = Averaged(Binomial(trials), v).derivatives(y, eta, [])
    monkeypatch.setattr(averages, "TILE", 1)
    alone = Averaged(Binomial(trials), v).derivatives(y, eta, [])
    np.testing.assert_allclose(alone, together, rtol=1e-12, atol=1e-16)
    for i in range(4):
        one = Averaged(Binomial(trials[[i]]), v[[i]]).derivatives(y[[i]], eta[[i]], [])
        np.testing.assert_allclose(np.ravel(one), np.array(together)[:, i], rtol=1e-9, atol=1e-13)


def test_too_wide_is_not_a_number():
    """A logit's average is known to a standard deviation of 40; at 4000 it is NaN, and no number that is wrong."""
    y = np.ones(2)
    found = Averaged(Bernoulli(), np.array([40.0, 4000.0]) ** 2).log_kernel(y, np.zeros(2), [])
    kink = -40 / np.sqrt(2 * np.pi)
    near = integrate.quad(
        lambda z: -np.log1p(np.exp(-abs(z))) * np.exp(-(z**2) / 3200), -60, 60, epsabs=1e-12, points=[0]
    )
    np.testing.assert_allclose(found[0], kink + near[0] / (40 * np.sqrt(2 * np.pi)), rtol=1e-10)
    assert np.isnan(found[1])


def test_without_closed_forms_or_derivatives():
    """A likelihood that gives its density alone: E log cosh-like tails against their integral."""

    class Logistic(Likelihood):
        outcomes = Bernoulli().outcomes

        def log_density(self, y, eta, theta):
            return -np.abs(y - eta) - 2 * np.log1p(np.exp(-np.abs(y - eta)))

    try:
        averaged = Averaged(Logistic(), np.array([1.5]))
        truth = integral(lambda eta: Logistic().log_density(1.0, eta, []), 0.2, np.sqrt(1.5))
        np.testing.assert_allclose(averaged.log_kernel(np.ones(1), np.array([0.2]), []), truth, rtol=1e-10)
        slope = integral(lambda eta: np.tanh((1 - eta) / 2), 0.2, np.sqrt(1.5))
        np.testing.assert_allclose(averaged.derivatives(np.ones(1), np.array([0.2]), [])[0], slope, rtol=1e-7)
    finally:
        del Likelihood.registry["logistic"]


def test_wide_poisson_and_gamma():
    """Closed forms have no limit of width."""
    v = np.array([1e3])
    value, first, second, _ = Poisson().averaged(np.zeros(1), np.array([-600.0]), v, [])
    np.testing.assert_allclose([value[0], first[0], second[0]], -np.exp(-100.0), rtol=1e-12)
    value, *_ = Gamma().averaged(np.ones(1), np.array([600.0]), v, [2.0])
    alone = 2 * np.log(2.0) - special.gammaln(2.0) - 1200.0
    np.testing.assert_allclose(value, alone - 2 * np.exp(-100.0), rtol=1e-12)
