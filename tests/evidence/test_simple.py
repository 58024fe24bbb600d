# SPDX-License-Identifier: BSD-3-Clause
"""Simple Monte Carlo: honest in few dimensions, and honest about its failure in many."""

import numpy as np
import pytest
from scipy.special import logsumexp

import marglik
from marglik.evidence import Exact, Importance, Simple, evaluate
from marglik.likelihoods import Bernoulli, Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Ridge


def gaussian(p, n=12, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return LinearModel(Gaussian(), Ridge(X), X @ rng.standard_normal(p) + rng.standard_normal(n))


def test_the_definition():
    """log p̂ = logsumexp − log N over the very draws that were made."""
    model, theta = gaussian(2), np.array([0.9, 1.1])
    W = model.path(theta).draws(500, np.random.default_rng(7))
    X, y = model.prior[0].columns, model.rows.y
    eta = 0.9 * W @ X.T
    log_p = -np.sum((y - eta) ** 2, axis=1) / (2 * 1.1**2) - len(y) * np.log(2 * np.pi * 1.1**2) / 2
    e = Simple(500, seed=7)(model, theta)
    np.testing.assert_allclose(e.log_value, logsumexp(log_p) - np.log(500), rtol=1e-12)
    share = np.exp(log_p - log_p.max())
    np.testing.assert_allclose(e.std_error, share.std(ddof=1) / share.mean() / np.sqrt(500), rtol=1e-10)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_conjugate(p):
    model, theta = gaussian(p), np.array([0.8, 1.0])
    e = Simple()(model, theta)
    truth = evaluate(Exact(), model, theta[None]).log_value[0]
    assert abs(e.log_value - truth) < 4 * e.std_error < 0.2
    assert not e.checks


def test_standard_errors_are_true():
    """Over 200 seeds, two weights."""
    model, theta = gaussian(2), np.array([0.8, 1.0])
    truth = evaluate(Exact(), model, theta[None]).log_value[0]
    found = [Simple(2000, seed)(model, theta) for seed in range(200)]
    z = np.array([(e.log_value - truth) / e.std_error for e in found])
    assert abs(z.mean()) < 0.3
    assert 0.7 < z.std() < 1.3


def test_gradient_with_draws_held():
    model, theta, h = gaussian(2), np.array([0.9, 1.1]), 1e-5
    held = Simple(300)(model, theta).posterior
    slope = [
        (held.evidence(theta + h * e).log_value - held.evidence(theta - h * e).log_value) / (2 * h) for e in np.eye(2)
    ]
    np.testing.assert_allclose(held.evidence(theta).gradient, slope, rtol=1e-6)


def test_many_weights_are_too_many():
    """The standard error cannot exceed one, so a check must say that it means nothing."""
    e = Simple(1000)(gaussian(20, n=200), np.array([1.0, 0.3]))
    assert e.std_error < 1 + 1e-12
    assert "of the weight, so that neither the evidence nor its standard error means much" in e.checks["draws"]
    fit = marglik.fit(gaussian(20, n=200), method="simple", fixed={"sd(weights)": 1.0, "sd(noise)": 0.3})
    assert str(fit.check()).startswith("Do not trust these numbers: One of 16384 draws")


def test_learning():
    """From Laplace's maximum to that of the average over the draws."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((60, 2))
    y = (rng.random(60) < 1 / (1 + np.exp(-X @ [1.5, -1.0]))).astype(float)
    model = LinearModel(Bernoulli(), Ridge(X), y)
    simple, importance = (marglik.fit(model, method=m) for m in ("simple", "importance"))
    assert simple.converged
    e = simple._evidence
    assert abs(e.log_value - importance.log_evidence) < 4 * e.std_error
    difference = simple.hyperparameters["estimate"] - importance.hyperparameters["estimate"]
    assert (difference.abs() < 0.2 * importance.hyperparameters["se"]).all()


def test_flat_weights_are_refused():
    model = LinearModel(Bernoulli(), Flat(np.ones(4)), np.array([0.0, 1, 1, 0]))
    with pytest.raises(ValueError, match=r"averages over draws from the prior, and flat weights have no prior"):
        marglik.fit(model, method="simple")
    with pytest.raises(ValueError, match=r"draws must be a whole number, 100 or more, but is 3"):
        Simple(3)


def test_seed_decides():
    model, theta = gaussian(2), np.array([0.9, 1.1])
    a, b, c = (Simple(200, seed)(model, theta).log_value for seed in (1, 1, 2))
    assert a == b != c
    assert isinstance(Importance().seeded(3), Importance)
    assert Importance().seeded(3).seed == 3
