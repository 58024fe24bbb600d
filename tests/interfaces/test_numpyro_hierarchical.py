# SPDX-License-Identifier: BSD-3-Clause
"""A hierarchical logistic regression as a program, against Laplace's method with one dense design."""

import numpy as np
import pytest
from scipy import optimize, special

import marglik
from marglik.evidence import Laplace

numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402


def hierarchical(X, g, y):
    d = X.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 2.0).expand([d]).to_event(1))
    sd = numpyro.param("sd", jnp.ones(d), constraint=dist.constraints.positive)
    with numpyro.plate("group", int(g.max()) + 1):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([d]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=(X * (mu + sd * z)[g]).sum(-1)), obs=y)


def hierarchical_evidence(X, g, y, sd):
    """Laplace's, with one dense design."""
    q, d = g.max() + 1, X.shape[1]
    design = np.c_[2.0 * X, (np.eye(q)[g][:, :, None] * (sd * X)[:, None]).reshape(len(y), q * d)]
    w = np.zeros(d + q * d)
    for _ in range(50):
        p = special.expit(design @ w)
        H = (design * (p * (1 - p))[:, None]).T @ design + np.eye(len(w))
        w = w + np.linalg.solve(H, design.T @ (y - p) - w)
    eta = design @ w
    return y @ eta - np.logaddexp(0, eta).sum() - w @ w / 2 - np.linalg.slogdet(H)[1] / 2


@pytest.fixture(scope="module")
def hierarchical_data():
    """The data tell nothing of the first scale: its maximum is at zero."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(6), 6)
    X = np.c_[np.ones(36), rng.standard_normal((36, 1))]
    B = np.array([-0.3, 0.8]) + np.array([1.2, 0.8]) * rng.standard_normal((6, 2))
    return X, g, (rng.random(36) < special.expit((X * B[g]).sum(1))).astype(float)


@pytest.fixture(scope="module")
def hierarchical_fit(hierarchical_data):
    return marglik.fit(hierarchical, args=hierarchical_data)


def test_a_search_does_not_set_out_where_densities_have_kinks(hierarchical_data, hierarchical_fit):
    """At zero every logit is zero, where NumPyro's Bernoulli density has a wrong slope."""
    for theta in hierarchical_fit.model.start_theta():
        found = Laplace()(hierarchical_fit.model, theta)
        assert not found.checks
        expected = hierarchical_evidence(*hierarchical_data, theta)
        np.testing.assert_allclose(found.log_value, expected, atol=1e-9, rtol=0)


def test_a_scale_at_zero_beside_one_that_is_not(hierarchical_data, hierarchical_fit):
    """The other is where it is with the first held at zero, and so is its standard error."""
    optimum = hierarchical_fit.optimum
    np.testing.assert_array_equal(optimum.limit, [[True, False]])
    assert hierarchical_fit.hyperparameters.loc["sd[0]", "estimate"] == 0

    def value(phi):
        return hierarchical_evidence(*hierarchical_data, np.array([0.0, np.exp(phi)]))

    best = optimize.minimize_scalar(lambda phi: -value(phi), bounds=(-2, 1), method="bounded", options={"xatol": 1e-9})
    np.testing.assert_allclose(np.log(optimum.theta[0, 1]), best.x, atol=1e-6, rtol=0)
    np.testing.assert_allclose(hierarchical_fit.log_evidence, -best.fun, atol=1e-6, rtol=0)
    bend = (value(best.x + 1e-3) - 2 * value(best.x) + value(best.x - 1e-3)) / 1e-6
    np.testing.assert_allclose(optimum.hessian[0, 1, 1], bend, rtol=1e-4)


def test_differences_need_no_mode_of_their_own(hierarchical_fit):
    """What the mode to first order misses is even in the step: central differences are those of modes searched for."""
    objective, warm = hierarchical_fit.objective, Laplace()(hierarchical_fit.model, np.array([0.7, 0.4])).posterior
    theta, free = np.array([[0.7, 0.4]]), np.ones((1, 2), bool)

    def gradient(phi):
        there = objective.hyperparameters.constrain(phi)
        return objective.evaluate(there, warm)[1] * objective.hyperparameters.derivatives(there)[0]

    phi = objective.hyperparameters.unconstrain(theta)
    searched = [(gradient(phi + h) - gradient(phi - h))[0] / 2e-4 for h in 1e-4 * np.eye(2)]
    found = objective.differences(theta, free, warm)[0]
    np.testing.assert_allclose(found, np.array(searched), rtol=1e-6, atol=1e-7)
    above, below = (
        Laplace().nearby(hierarchical_fit.model, theta[0] + h, warm).gradient
        - Laplace()(hierarchical_fit.model, theta[0] + h, warm).gradient
        for h in (1e-3, -1e-3)
    )
    assert np.abs(above).min() > 1e-7
    np.testing.assert_allclose(above, below, rtol=0.02)
