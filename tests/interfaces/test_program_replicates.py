# SPDX-License-Identifier: BSD-3-Clause
"""Data drawn from a program, and the scores of its estimates over them."""

import numpy as np
import pytest

numpyro = pytest.importorskip("numpyro")

import jax.numpy as jnp  # noqa: E402
from numpyro import distributions as dist  # noqa: E402
from numpyro import handlers  # noqa: E402

import marglik  # noqa: E402
from marglik.interfaces.numpyro import program  # noqa: E402
from marglik.interfaces.numpyro.replicates import replicates  # noqa: E402
from marglik.validate import Unsupported  # noqa: E402


def positive(name):
    return numpyro.param(name, 1.0, constraint=dist.constraints.positive)


def anova(y):
    mu, s, e = numpyro.sample("mu", dist.Normal(0, 3)), positive("s"), positive("e")
    with numpyro.plate("g", len(y)):
        a = numpyro.sample("a", dist.Normal(mu, s))
    numpyro.sample("y", dist.Normal(a[:, None], e), obs=y)


def answers(y, g):
    s, mu = positive("s"), numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("g", 40):
        a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("y", dist.Bernoulli(logits=mu + s * a[g]), obs=y)


def test_moments_of_what_is_drawn():
    """y ~ N(0, 9 + s² + e²), its values within a member correlated by (9 + s²), and of the shape of the data."""
    theta, n = np.array([2.0, 1.5]), 2000
    model = program(anova, (np.zeros((2, 3)),), {}, ())
    y = np.array([r.call.function.data["y"] for r in replicates(model.densities, theta, n)]).reshape(n, 6)
    expected = np.kron(np.eye(2), np.full((3, 3), 4.0)) + 9 + 2.25 * np.eye(6)
    # sd of an entry of a sample covariance: √((S_ii S_jj + S_ij²)/n)
    d = expected.diagonal()
    error = np.sqrt((np.outer(d, d) + expected**2) / n)
    assert np.abs((y.T @ y / n - expected) / error).max() < 4


def test_a_replicate_is_the_program_called_with_its_data():
    theta = np.array([2.0, 1.5])
    model = program(anova, (np.ones((4, 3)),), {}, ())
    w = np.linspace(-1, 1, model.n_weights)
    for replicate in model.replicates(theta, 2, seed=1):
        y = replicate.densities.call.function.data["y"]
        again = program(anova, (y,), {}, ())
        np.testing.assert_allclose(replicate.at(w, theta).log_joint, again.at(w, theta).log_joint, rtol=1e-14)


@pytest.fixture(scope="module")
def anova_fit():
    rng = np.random.default_rng(0)
    return marglik.fit(anova, args=(1.2 * rng.standard_normal((20, 1)) + rng.standard_normal((20, 4)),))


def test_exact_scores_are_centred(anova_fit):
    found = anova_fit.check(simulations=30).consistency
    assert found.simulations == 30
    assert found.p_value > 0.01
    assert set(found.bias) == {"s", "e"}


@pytest.mark.slow
def test_laplace_is_biased_for_binary_data():
    """Three answers a person: Laplace's evidence is too low where s is large, and the scores show it."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(40), 3)
    y = (rng.random(120) < 1 / (1 + np.exp(-2 * rng.standard_normal(40)[g]))).astype(float)
    found = marglik.fit(answers, args=(y, g)).check(simulations=100).consistency
    assert found.p_value < 0.01
    assert -0.6 < found.bias["s"] < -0.15


@pytest.mark.slow
def test_p_values_do_not_cluster(anova_fit):
    p = np.sort([anova_fit.check(simulations=12, seed=seed).consistency.p_value for seed in range(8)])
    assert np.abs(p - (np.arange(8) + 0.5) / 8).max() < 0.5  # Kolmogorov: 1 % at 0.54


def flat(y):
    m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(m, positive("s")), obs=y)


def weighted(y):
    s = positive("s")
    with handlers.scale(scale=2.0):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), s), obs=y)


def with_factor(y):
    numpyro.factor("f", -jnp.sum((y - numpyro.sample("m", dist.Normal(0, 1))) ** 2) / positive("s"))


@pytest.mark.parametrize(
    ("function", "wrong"), [(flat, "improper prior"), (weighted, "multiplied by a weight"), (with_factor, "factor 'f'")]
)
def test_what_is_no_distribution_of_data(function, wrong):
    model = program(function, (np.array([0.3, -0.8, 1.9]),), {}, ())
    with pytest.raises(Unsupported, match=wrong):
        next(model.replicates(np.ones(1), 1))
