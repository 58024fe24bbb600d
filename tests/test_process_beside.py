# SPDX-License-Identifier: BSD-3-Clause
"""Gaussian processes beside grouping factors, with the variational bound, and where inputs repeat: dense twins."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.special import gammaln

import marglik
from marglik.evidence import EvidenceMethod
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, GaussianProcess, Ridge
from marglik.testing import derivative

rng = np.random.default_rng(1)
N = 48
x = np.round(rng.uniform(0, 10, N), 1)
g = rng.integers(0, 6, N)
y = np.sin(x) + 0.7 * rng.standard_normal(6)[g] + 0.3 * rng.standard_normal(N) + 2
DATA = pd.DataFrame({"y": y, "x": x, "g": g.astype(str)})
NEW = pd.DataFrame({"x": [-1.0, 2.0, 2.05, 9.0, x[0]], "g": ["0", "1", "2", "5", "3"]})
NAMES = ["sd(gp(x))", "length_scale(gp(x))", "sd(Intercept | g)", "sd(noise)"]
THETA = np.array([0.8, 1.4, 0.6, 0.35])
COUNTS = rng.poisson(np.exp(0.3 * y)).astype(float)


def covariance(theta, a, b):
    """Of η at two sets of rows."""
    s, ell, tau = theta[:3]
    distance = a["x"].to_numpy()[:, None] - b["x"].to_numpy()
    return s**2 * np.exp(-(distance**2) / (2 * ell**2)) + tau**2 * np.equal.outer(a["g"].to_numpy(), b["g"].to_numpy())


def dense(theta, reml, data=DATA):
    """log p(y|θ) with an intercept, by definition."""
    n, F = len(data), np.ones((len(data), 1))
    V = covariance(theta, data, data) + theta[3] ** 2 * np.eye(n)
    A = F.T @ np.linalg.solve(V, F)
    left = data["y"] - F @ np.linalg.solve(A, F.T @ np.linalg.solve(V, data["y"]))
    total = (n - reml) * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + left @ np.linalg.solve(V, left)
    return -(total + reml * np.linalg.slogdet(A)[1]) / 2


def kriged(theta, new, data=DATA):
    """Mean and variance of η at new rows, the intercept flat (Cressie 1993, §3.4)."""
    V, C = covariance(theta, data, data) + theta[3] ** 2 * np.eye(len(data)), covariance(theta, new, data)
    F, f = np.ones(len(data)), np.ones(len(new))
    A = F @ np.linalg.solve(V, F)
    beta = F @ np.linalg.solve(V, data["y"]) / A
    mean = beta * f + C @ np.linalg.solve(V, data["y"] - beta * F)
    own = covariance(theta, new, new).diagonal() - np.einsum("ij,ji->i", C, np.linalg.solve(V, C.T))
    return mean, own + (f - C @ np.linalg.solve(V, F)) ** 2 / A


@pytest.fixture(scope="module")
def beside():
    return {reml: marglik.fit("y ~ gp(x) + (1 | g)", DATA, reml=reml) for reml in (True, False)}


@pytest.mark.parametrize("reml", [True, False])
def test_beside_a_grouping_factor_the_evidence_is_the_dense_one(beside, reml):
    """At given values, and at its maximum, where the dense one does not rise either."""
    fit = beside[reml]
    assert fit.converged
    assert_allclose(fit.log_evidence_at(dict(zip(NAMES, THETA, strict=True))), dense(THETA, reml), rtol=0, atol=1e-9)
    best = fit.hyperparameters["estimate"][NAMES].to_numpy()
    assert_allclose(fit.log_evidence, dense(best, reml), rtol=0, atol=1e-9)
    slopes = [derivative(lambda t, e=e: dense(best * np.exp(t * e), reml), 0.05) for e in np.eye(4)]
    assert_allclose(slopes, 0, rtol=0, atol=1e-5)


def test_beside_a_grouping_factor_predictions_are_those_of_kriging(beside):
    fit = beside[True]
    best = fit.hyperparameters["estimate"][NAMES].to_numpy()
    mean, variance = kriged(best, NEW)
    found = fit.predict(NEW, interval=0.95)
    assert_allclose(found["mean"], mean, rtol=0, atol=1e-8)
    assert_allclose(((found["upper"] - found["mean"]) / 1.959963984540054) ** 2, variance, rtol=0, atol=1e-7)
    assert_allclose(fit.predict(), kriged(best, DATA)[0], rtol=0, atol=1e-8)
    assert_allclose(fit.predict(DATA), fit.predict(), rtol=0, atol=1e-8)


def counted(method, process, grouped=True):
    """The evidence of counts at `THETA`, with the process or with its equivalent basis, and a factor's indicators."""
    s, ell, tau = THETA[:3]
    term, levels = GaussianProcess(x, label="gp(x)"), (g[:, None] == np.arange(6)).astype(float)
    basis = term.columns @ np.linalg.cholesky(term.covariance(np.array([s, ell])) + 1e-14 * np.eye(term.n_weights))
    if process:
        prior, theta = Flat(np.ones(N)) + term, [s, ell]
        prior, theta = (prior + Ridge(levels), [*theta, tau]) if grouped else (prior, theta)
    else:
        prior, theta = Flat(np.ones(N)) + Ridge(np.hstack([basis, tau * levels[:, : 6 * grouped]])), [1.0]
    model = LinearModel(Poisson(), prior, COUNTS)
    return EvidenceMethod.registry[method]()(model, np.array(theta)).log_value


@pytest.mark.parametrize("method", ["laplace", "variational"])
def test_a_process_and_its_equivalent_basis_have_the_same_evidence(method):
    assert_allclose(counted(method, True, False), counted(method, False, False), rtol=0, atol=1e-9)
    joint = counted(method, True)
    assert_allclose(joint, counted(method, False), rtol=0, atol=1e-9)
    given = dict(zip(NAMES[:3], THETA[:3], strict=True))
    fit = marglik.fit("y ~ gp(x) + (1 | g)", DATA.assign(y=COUNTS), family="poisson", method=method, fixed=given)
    assert_allclose(fit.log_evidence, joint, rtol=0, atol=1e-9)


def test_the_bound_is_the_evidence_of_a_gaussian(beside):
    fit = marglik.fit("y ~ gp(x) + (1 | g)", DATA, method="variational")
    assert_allclose(fit.log_evidence, beside[True].log_evidence, rtol=0, atol=1e-9)
    own, exact = (f.hyperparameters["estimate"] for f in (fit, beside[True]))
    assert_allclose(own, exact, rtol=1e-4)


def test_the_bound_lies_below_the_integral_over_a_process():
    """Two inputs, by the trapezoidal rule over both values."""
    places, counts = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 3.0, 2.0])
    theta = np.array([1.2, 0.9])
    term = GaussianProcess(places)
    f = np.stack(np.meshgrid(*[np.linspace(-9, 9, 721)] * 2, indexing="ij"), -1).reshape(-1, 2)
    K = term.covariance(theta)
    log_p = -np.einsum("nd,nd->n", f, np.linalg.solve(K, f.T).T) / 2 - np.linalg.slogdet(2 * np.pi * K)[1] / 2
    eta = f[:, [0, 0, 1, 1]]
    log_p += (counts * eta - np.exp(eta) - gammaln(counts + 1)).sum(axis=1)
    exact = np.log(np.exp(log_p).sum() * (18 / 720) ** 2)
    model = LinearModel(Poisson(), term, counts)
    bound = EvidenceMethod.registry["variational"]()(model, theta).log_value
    assert exact - 0.03 < bound < exact
    evidence = EvidenceMethod.registry["importance"]()(model, theta)
    assert evidence.std_error < 1e-3
    assert_allclose(evidence.log_value, exact, rtol=0, atol=4 * evidence.std_error)


@pytest.mark.parametrize("method", ["laplace", "variational"])
def test_of_several_maxima_the_best_is_found(method):
    """The evidence of these counts rises to a straight line too, whose length scale is infinite, 1.6 nats lower."""
    data = DATA.assign(y=np.random.default_rng(1).poisson(np.exp(0.3 * y)).astype(float))
    fit = marglik.fit("y ~ gp(x)", data, family="poisson", method=method)
    steep = [fit.log_evidence_at({NAMES[0]: s, NAMES[1]: ell}) for s in (0.3, 0.4) for ell in (0.4, 0.7, 1.5)]
    line = fit.log_evidence_at({NAMES[0]: 1e3, NAMES[1]: 1.4e4})
    assert fit.log_evidence > max(steep) > line + 1
    for reml in (True, False) if method == "laplace" else (True,):
        joint = marglik.fit("y ~ gp(x) + (1 | g)", data, family="poisson", method=method, reml=reml)
        alone = marglik.fit("y ~ gp(x)", data, family="poisson", method=method, reml=reml)
        assert joint.log_evidence > alone.log_evidence - 1e-9


@pytest.fixture(scope="module")
def repeated():
    """Five rows of 48 share their inputs with another, three of them all three."""
    places = x.copy()
    places[[1, 2]], places[3] = places[0], places[4]
    data = DATA.assign(x=places + np.r_[0:N] * 1e-3 * (places == x), g="0")
    data.loc[[0, 1, 2], "x"] = 5.0
    return data, marglik.fit("y ~ gp(x)", data)


def test_rows_that_repeat_inputs_go_by_their_covariance(repeated):
    data, fit = repeated
    assert data["x"].nunique() < len(data)
    assert fit.model.dense_rows
    assert fit.converged
    s, ell, noise = fit.hyperparameters["estimate"]
    theta = np.array([s, ell, 0.0, noise])
    assert_allclose(fit.log_evidence, dense(theta, True, data), rtol=0, atol=1e-9)
    slopes = [derivative(lambda t, e=e: dense(theta * np.exp(t * e), True, data), 0.05) for e in np.eye(4)]
    assert_allclose(slopes, 0, rtol=0, atol=1e-5)
    given = dict(zip([NAMES[0], NAMES[1], NAMES[3]], THETA[[0, 1, 3]], strict=True))
    assert_allclose(fit.log_evidence_at(given), dense(THETA * [1, 1, 0, 1], True, data), rtol=0, atol=1e-9)


def test_predictions_where_inputs_repeat(repeated):
    """At new inputs, at inputs of the fit, and for its own rows; the process has one value for each input."""
    data, fit = repeated
    s, ell, noise = fit.hyperparameters["estimate"]
    theta = np.array([s, ell, 0.0, noise])
    for new in (NEW, data):
        mean, variance = kriged(theta, new, data)
        found = fit.predict(new, interval=0.95)
        assert_allclose(found["mean"], mean, rtol=0, atol=1e-9)
        assert_allclose(((found["upper"] - found["mean"]) / 1.959963984540054) ** 2, variance, rtol=0, atol=1e-9)
    assert_allclose(fit.predict(), fit.predict(data), rtol=0, atol=1e-9)
    assert_allclose(fit.predict()[[1, 2]], fit.predict()[0], rtol=0, atol=1e-12)
    values = fit.posterior.mean["gp(x)"] + fit.fixed_effects.loc["Intercept", "estimate"]
    assert_allclose(values[np.unique(data["x"], return_inverse=True)[1]], fit.predict(), rtol=0, atol=1e-9)


def test_the_order_of_repeated_rows_does_not_matter(repeated):
    data, fit = repeated
    other = marglik.fit("y ~ gp(x)", data.sample(frac=1, random_state=3))
    assert_allclose(other.log_evidence, fit.log_evidence, rtol=0, atol=1e-9)
    assert_allclose(other.hyperparameters["estimate"], fit.hyperparameters["estimate"], rtol=1e-5)


@pytest.mark.parametrize("twice", [1.0, 2.1])
def test_both_ways_agree_where_inputs_repeat(twice):
    """Up to two rows an input go by the rows' covariance, more by the values at the inputs."""
    places = np.arange(N) // twice
    model = LinearModel(Gaussian(), Flat(np.ones(N)) + GaussianProcess(places, label="gp(x)"), y)
    assert model.dense_rows == (twice < 2)
    value = EvidenceMethod.registry["exact"]()(model, np.array([0.8, 3.0, 0.4])).log_value
    data = DATA.assign(x=places, g="0")
    assert_allclose(value, dense(np.array([0.8, 3.0, 0.0, 0.4]), True, data), rtol=0, atol=1e-9)
