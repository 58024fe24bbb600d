# SPDX-License-Identifier: BSD-3-Clause
"""More weights than rows: everything against the same model with all its weights."""

import numpy as np
import pytest

from marglik.evidence import Laplace
from marglik.fitting import fit_model
from marglik.likelihoods import Poisson
from marglik.model import LinearModel
from marglik.posterior.base import NewRows
from marglik.priors import Flat, Ridge
from marglik.rows import InMemory

N, P = 12, 31
GROUPS = {"one": None, "groups": np.array([0] * 4 + [1] * 27), "a singular design": None}


@pytest.fixture(params=GROUPS)
def pair(request):
    """The model, and the same with no weights left out."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((N, P))
    if request.param == "a singular design":
        X[3:6] = X[:3]
    y = rng.poisson(np.exp(0.5 + X @ rng.standard_normal(P) * 0.2)).astype(float)
    groups = GROUPS[request.param]
    ridge = Ridge(X, groups=groups)
    models = [LinearModel(Poisson(), Flat(np.ones(N), ["Intercept"]) + ridge, InMemory(y)) for _ in range(2)]
    models[1].__dict__["working"] = models[1]
    return models


def test_evidence(pair):
    thin, full = pair
    assert thin.working.n_weights < full.n_weights == P + 1
    for theta in (np.full(len(thin.hyperparameters), 0.3), np.linspace(0, 2, len(thin.hyperparameters))):
        one, other = Laplace()(thin, theta), Laplace()(full, theta)
        np.testing.assert_allclose(one.log_value, other.log_value, rtol=1e-11)
        np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-8, atol=1e-10)


def test_posterior(pair):
    scales = dict.fromkeys(pair[0].hyperparameters.names, 0.4)
    one, other = (fit_model(m, fixed=scales).posterior for m in pair)
    for label in ("ridge", "fixed effects"):
        np.testing.assert_allclose(one.mean[label], other.mean[label], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(one.sd[label], other.sd[label], rtol=1e-9)
        np.testing.assert_allclose(one.edf[label], other.edf[label], rtol=1e-9)
    np.testing.assert_allclose(one.covariance(), other.covariance(), rtol=1e-9, atol=1e-10)
    assert set(one.occam()) == set(other.occam())
    for name, nats in one.occam().items():
        np.testing.assert_allclose(nats, other.occam()[name], rtol=1e-9, atol=1e-9)
    rng = np.random.default_rng(1)
    new = NewRows({"ridge": rng.standard_normal((5, P)), "fixed effects": np.ones((5, 1))}, {})
    for a, b in zip(one.linear_predictor(new), other.linear_predictor(new), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_draws(pair):
    """Their covariance, within five standard errors."""
    thin = fit_model(pair[0], fixed=dict.fromkeys(pair[0].hyperparameters.names, 0.4)).posterior
    draws = thin.sample(4000, seed=2)["ridge"] - thin.mean["ridge"]
    C = thin.covariance()
    error = np.sqrt((np.outer(C.diagonal(), C.diagonal()) + C**2) / len(draws))
    assert np.all(np.abs(draws.T @ draws / len(draws) - C) < 5 * error)


def test_what_is_learned(pair):
    """The estimate of the thin model is that of the full one."""
    one, other = (fit_model(m) for m in pair)
    np.testing.assert_allclose(one.log_evidence, other.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(one.optimum.theta, other.optimum.theta, rtol=1e-5)
