# SPDX-License-Identifier: BSD-3-Clause
"""Importance sampling and simple Monte Carlo of programs, against closed forms and quadrature."""

import numpy as np
import pytest
from scipy.special import betaln, gammaln
from scipy.stats import multivariate_normal

numpyro = pytest.importorskip("numpyro")

import jax.numpy as jnp  # noqa: E402
from numpyro import distributions as dist  # noqa: E402

import marglik  # noqa: E402
from marglik.evidence import Importance, Simple, importance  # noqa: E402
from marglik.interfaces.numpyro import program  # noqa: E402

SUCCESSES, TRIALS = np.array([3, 5, 2, 7, 4]), np.array([10, 10, 12, 10, 9])
COUNTS = np.array([0, 1, 3, 2, 0, 1])


def beta_binomial(y, n):
    a, b = (numpyro.sample(name, dist.LogNormal(0, 1)) for name in "ab")
    with numpyro.plate("members", len(y)):
        p = numpyro.sample("p", dist.Beta(a, b))
        numpyro.sample("y", dist.Binomial(n, p), obs=y)


def gamma_poisson(y):
    shape, rate = (numpyro.sample(name, dist.LogNormal(0, 1)) for name in ("shape", "rate"))
    with numpyro.plate("policies", len(y)):
        numpyro.sample("y", dist.Poisson(numpyro.sample("mean", dist.Gamma(shape, rate))), obs=y)


def beta_binomial_evidence(y, n, a, b):
    choose = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
    return np.sum(choose + betaln(y + a, n - y + b) - betaln(a, b))


def gamma_poisson_evidence(y, a, b):
    return np.sum(gammaln(y + a) - gammaln(a) - gammaln(y + 1) + a * np.log(b) - (y + a) * np.log(b + 1))


CONJUGATE = {
    "beta-binomial": (beta_binomial, (SUCCESSES, TRIALS), ("a", "b"), beta_binomial_evidence),
    "gamma-Poisson": (gamma_poisson, (COUNTS,), ("shape", "rate"), gamma_poisson_evidence),
}


@pytest.mark.parametrize("name", CONJUGATE)
def test_conjugate(name):
    function, args, hyper, evidence = CONJUGATE[name]
    model, theta = program(function, args, {}, hyper), np.array([2.0, 3.0])
    truth = evidence(*args, *theta)
    found = importance.estimate(model, theta)
    assert abs(found.log_value - truth) < 4 * found.std_error < 0.1
    assert found.k_hat < 0.7


@pytest.mark.parametrize("name", CONJUGATE)
def test_held_gradient_is_that_of_the_value(name):
    function, args, hyper, _ = CONJUGATE[name]
    model, theta, h = program(function, args, {}, hyper), np.array([2.0, 3.0]), 1e-5
    held = Importance(256)(model, theta).posterior
    slope = [
        (held.evidence(theta + h * e).log_value - held.evidence(theta - h * e).log_value) / (2 * h) for e in np.eye(2)
    ]
    np.testing.assert_allclose(held.evidence(theta).gradient, slope, rtol=1e-6, atol=1e-8)


def test_simple_monte_carlo():
    """Normal means with a normal prior: y ~ N(0, s² + 1). The gradient moves the prior as well as the likelihood."""
    y, theta, h = np.array([0.3, -1.1, 0.8]), np.array([0.9]), 1e-5

    def means(y):
        s = numpyro.sample("s", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal(0, s).expand([3])), 1), obs=y)

    model = program(means, (y,), {}, ("s",))
    e = Simple(4096)(model, theta)
    truth = -3 / 2 * np.log(2 * np.pi * (0.81 + 1)) - y @ y / (2 * (0.81 + 1))
    assert abs(e.log_value - truth) < 4 * e.std_error < 0.2
    held = e.posterior
    slope = (held.evidence(theta + h).log_value - held.evidence(theta - h).log_value) / (2 * h)
    np.testing.assert_allclose(held.evidence(theta).gradient, [slope], rtol=1e-6)


def test_a_curved_valley():
    """Rosenbrock's function as a factor: a mixture fitted to the draws covers it (log Z = −7.14934, by quadrature)."""

    def valley():
        x = numpyro.sample("x", dist.Uniform(-10, 10))
        y = numpyro.sample("y", dist.Uniform(-5, 15))
        numpyro.factor("likelihood", -(100 * (y - x**2) ** 2 + (1 - x) ** 2))

    found = importance.estimate(program(valley, (), {}, ()), np.zeros(0))
    assert abs(found.log_value + 7.14934401307) < 4 * found.std_error < 0.1
    assert found.k_hat < 0.7


def test_normal_with_unknown_variance():
    """Normal-inverse-gamma, in closed form."""
    x = np.array([-1.2, -0.4, 0.1, 0.9, 1.6])
    y = np.array([2.1, 2.9, 3.0, 4.2, 4.4])

    def regression():
        tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
        a = numpyro.sample("a", dist.Normal(3.0, 1 / jnp.sqrt(0.5 * tau)))
        b = numpyro.sample("b", dist.Normal(1.0, 1 / jnp.sqrt(2.0 * tau)))
        numpyro.sample("y", dist.Normal(a + b * x, 1 / jnp.sqrt(tau)), obs=y)

    X, prior, mean = np.column_stack([np.ones(5), x]), np.diag([0.5, 2.0]), np.array([3.0, 1.0])
    V = np.eye(5) + X @ np.linalg.inv(prior) @ X.T
    r = y - X @ mean
    shape, rate = 3.0, 2.0
    after = rate + r @ np.linalg.solve(V, r) / 2
    truth = (
        -5 / 2 * np.log(2 * np.pi)
        - np.linalg.slogdet(V)[1] / 2
        + shape * np.log(rate)
        - (shape + 2.5) * np.log(after)
        + gammaln(shape + 2.5)
        - gammaln(shape)
    )
    found = importance.estimate(program(regression, (), {}, ()), np.zeros(0))
    assert abs(found.log_value - truth) < 4 * found.std_error < 0.05


def test_learning_by_importance():
    """The maximum of the marginal likelihood of a gamma–Poisson model, from its closed form."""
    from scipy.optimize import minimize

    y = np.array([0, 1, 5, 2, 0, 9, 1, 3])

    def fixed_rate(y):
        shape = numpyro.sample("shape", dist.LogNormal(0, 1))
        with numpyro.plate("policies", len(y)):
            numpyro.sample("y", dist.Poisson(numpyro.sample("mean", dist.Gamma(shape, 0.4))), obs=y)

    best = minimize(lambda t: -gamma_poisson_evidence(y, np.exp(t[0]), 0.4), [0.0], tol=1e-12)
    fit = marglik.fit(fixed_rate, args=(y,), hyper=["shape"], method="importance")
    row = fit.hyperparameters.iloc[0]
    assert abs(row["estimate"] - np.exp(best.x[0])) < 0.1 * row["se"]
    assert abs(fit.log_evidence + best.fun) < 4 * fit._evidence.std_error < 0.2


@pytest.fixture(scope="module")
def thousand():
    """Data of a thousand members, by the name of the program."""
    rng = np.random.default_rng(0)
    trials = rng.integers(5, 15, 1000)
    counts = rng.poisson(rng.gamma(2.0, 1 / 3, 1000))
    return {"beta-binomial": (rng.binomial(trials, rng.beta(2, 3, 1000)), trials), "gamma-Poisson": (counts,)}


@pytest.mark.parametrize("name", CONJUGATE)
def test_a_thousand_members(name, thousand):
    """Drawn one by one: jointly no draw would have any weight."""
    function, _, hyper, evidence = CONJUGATE[name]
    args, theta, h = thousand[name], np.array([2.0, 3.0]), 1e-5
    here = Importance()(program(function, args, {}, hyper), theta)
    truth = evidence(*args, *theta)
    assert abs(here.log_value - truth) < 4 * here.std_error < 0.05
    assert not here.checks
    exact = [(evidence(*args, *(theta + h * e)) - evidence(*args, *(theta - h * e))) / (2 * h) for e in np.eye(2)]
    slope = [
        (here.posterior.evidence(theta + h * e).log_value - here.posterior.evidence(theta - h * e).log_value) / (2 * h)
        for e in np.eye(2)
    ]
    np.testing.assert_allclose(here.gradient, slope, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(here.gradient, exact, rtol=0, atol=0.1)


def means_with_a_common_one(y):
    mu, s = numpyro.sample("mu", dist.Normal(0, 2)), numpyro.param("s", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("members", len(y)):
        a = numpyro.sample("a", dist.Normal(mu, s))
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)  # outside the plate, and yet of one member each


def test_members_about_a_border():
    """y ~ N(0, (s² + 1) I + 4 11ᵀ)."""
    y = 1 + 2 * np.random.default_rng(1).standard_normal(60)
    model = program(means_with_a_common_one, (y,), {}, ())
    each = np.arange(60)  # after the log determinants, which are all zero, and the prior of mu
    np.testing.assert_array_equal(model.members.owners, np.concatenate([np.full(62, -1), each, each]))
    truth = multivariate_normal(np.zeros(60), 3.25 * np.eye(60) + 4).logpdf(y)
    found = importance.estimate(model, np.array([1.5]))
    assert abs(found.log_value - truth) < 4 * found.std_error < 0.05
    assert found.k_hat < 0.7
    assert found.groups.log_value.shape == (60,)


def squares_in_one_sum(y):
    with numpyro.plate("members", len(y)):
        a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.factor("fit", -jnp.sum((y - a) ** 2) / 2)


def test_a_sum_over_members_is_drawn_jointly():
    """Its blocks of H are those of a plate, but whose its parts are cannot be told."""
    model = program(squares_in_one_sum, (np.linspace(-1, 1, 40),), {}, ())
    assert model.layout.plate == "members"
    assert model.members is None
    assert importance.estimate(model, np.zeros(0)).groups is None


def test_too_many_members_in_one_sum():
    with pytest.raises(ValueError, match="1200 weights jointly"):
        importance.estimate(program(squares_in_one_sum, (np.linspace(-1, 1, 1200),), {}, ()), np.zeros(0))
