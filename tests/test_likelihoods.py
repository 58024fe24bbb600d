# SPDX-License-Identifier: BSD-3-Clause
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from marglik.hyperparameters import Hyperparameter
from marglik.likelihoods import Gaussian, Likelihood, Poisson
from marglik.testing import check_likelihood

SCIPY = {
    "gaussian": lambda eta, theta: stats.norm(eta, theta[0]),
    "poisson": lambda eta, theta: stats.poisson(np.exp(eta)),
}
ETA = np.linspace(-3, 3, 13)


@pytest.mark.parametrize("name", sorted(Likelihood.registry))
def test_contract(name):
    check_likelihood(Likelihood.registry[name]())


@pytest.mark.parametrize("name", sorted(set(Likelihood.registry) & set(SCIPY)))
@pytest.mark.parametrize("scale", [0.03, 1.0, 40.0])
def test_density_mean_and_variance_are_scipys(name, scale):
    likelihood = Likelihood.registry[name]()
    theta = np.full(len(likelihood.hyperparameters()), scale)
    law = SCIPY[name](ETA, theta)
    y = np.arange(40.0)[:, None]
    expected = law.logpmf(y) if likelihood.outcomes.integer else law.logpdf(y)
    np.testing.assert_allclose(likelihood.log_density(y, ETA, theta), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(likelihood.mean(ETA, theta), law.mean(), rtol=1e-13)
    np.testing.assert_allclose(likelihood.variance(ETA, theta), law.var(), rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_gaussian_at_any_scale(scale):
    check_likelihood(Gaussian(), eta=(-2 * scale, 0.0, 3 * scale), theta=[[scale]])


def test_poisson_at_small_and_large_rates():
    check_likelihood(Poisson(), eta=(-9.0, -5.0, 5.0, 9.0))


def test_start_of_poisson_is_the_mean():
    y = np.array([0.0, 3.0, 7.0, 2.0] * 50)
    assert abs(np.exp(Poisson().start(y)) - y.mean()) < 0.01


def test_registry_has_snake_case_names():
    assert Likelihood.registry["gaussian"] is Gaussian
    assert Likelihood.registry["poisson"] is Poisson


def _changed(likelihood, **changes):
    """A likelihood with parts of it replaced, and its own class left as it is."""
    names = [n for n in dir(likelihood) if not n.startswith("_")]
    return SimpleNamespace(**{n: getattr(likelihood, n) for n in names} | changes)


P, G = Poisson(), Gaussian()
FAULTS = {
    "not normalised": (
        _changed(P, log_density=lambda y, eta, theta: P.log_density(y, eta, theta) + 1e-6),
        "the sum of the density is not one",
    ),
    "not normalised, continuous": (
        _changed(G, log_density=lambda y, eta, theta: G.log_density(y, eta, theta) + 1e-6),
        "the integral of the density is not one",
    ),
    "mean": (_changed(P, mean=lambda eta, theta: np.exp(eta) * (1 + 1e-5)), "mean is not that of the density"),
    "variance": (
        _changed(P, variance=lambda eta, theta: np.exp(eta) * (1 + 1e-5)),
        "variance is not that of the density",
    ),
    "first derivative": (
        _changed(P, derivatives=lambda y, eta, theta: (y - np.exp(eta) + 1e-5, -np.exp(eta), -np.exp(eta))),
        r"differ from differences: found .* at \(0, ",
    ),
    "third derivative": (
        _changed(P, derivatives=lambda y, eta, theta: (y - np.exp(eta), -np.exp(eta), np.exp(eta))),
        r"differ from differences: found .* at \(2, ",
    ),
    "derivative in theta": (
        _changed(
            G,
            theta_derivatives=lambda y, eta, theta: [
                (a, b, c * (1 + 1e-5)) for a, b, c in G.theta_derivatives(y, eta, theta)
            ],
        ),
        r"theta_derivatives in 'sd\(noise\)'",
    ),
    "number of derivatives in theta": (
        _changed(G, theta_derivatives=lambda y, eta, theta: []),
        "theta_derivatives must be three arrays for each of 1",
    ),
    "draws": (
        _changed(G, sample=lambda eta, theta, rng: G.sample(eta, theta, rng) * 1.05),
        "do not follow the density|standard errors",
    ),
    "draws of the right mean and variance": (
        _changed(G, sample=lambda eta, theta, rng: eta + theta[0] * rng.choice([-1, 1], np.shape(eta))),
        "do not follow the density",
    ),
    "impossible draws": (
        _changed(P, sample=lambda eta, theta, rng: P.sample(eta, theta, rng) + 0.5),
        "a draw is no possible outcome",
    ),
    "not concave": (
        _changed(
            P,
            log_density=lambda y, eta, theta: stats.t(2).logpdf(y - eta),
            derivatives=lambda y, eta, theta: _t_slopes(y - eta),
        ),
        "declared concave, but the second derivative is",
    ),
    "not gaussian": (_changed(P, gaussian=True), "declared gaussian, but the curvature"),
    "outcomes": (
        _changed(P, outcomes=SimpleNamespace(**vars(P.outcomes), violations=lambda y: ~np.isfinite(y) | (y < 0))),
        "outcomes accepts y = 0.5",
    ),
    "start": (_changed(P, start=lambda y: float(np.log(np.mean(y)) if np.any(y) else -np.inf)), "start gives η"),
    "start of theta": (_changed(G, start_theta=lambda y: (0.0,)), r"start_theta gives 0 for 'sd\(noise\)'"),
    "two names alike": (
        _changed(G, hyperparameters=lambda: (Hyperparameter("a"), Hyperparameter("a"))),
        "two hyperparameters have the same name",
    ),
    "shape": (
        _changed(P, log_density=lambda y, eta, theta: P.log_density(y, eta, theta).sum()),
        "log_density must have the shape of y",
    ),
}


def _t_slopes(r, nu=2):
    """Derivatives in η of the log density of Student's t at y − η."""
    u = nu + r**2
    return (nu + 1) * r / u, (nu + 1) * (r**2 - nu) / u**2, -(nu + 1) * 2 * r * (3 * nu - r**2) / u**3


@pytest.mark.parametrize("fault", FAULTS)
def test_contract_sees_faults(fault):
    likelihood, sentence = FAULTS[fault]
    with np.errstate(divide="ignore"), pytest.raises(AssertionError, match=sentence):
        check_likelihood(likelihood)
