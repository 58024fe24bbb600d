# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence against multivariate normal densities of y, written here without the engine's algebra."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.stats import multivariate_normal

from marglik import textbook
from marglik.evidence import Exact, Laplace, choose, evaluate
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, RandomEffects, Ridge
from marglik.rows import InMemory
from marglik.testing import check_evidence

OPTIONS = {
    "reml": {},
    "ml": {"reml": False},
    "weights and offset": {"weights": True, "offset": True},
    "ml with weights and offset": {"weights": True, "offset": True, "reml": False},
    "counts": {"counts": True},
    "ml with weights and counts": {"weights": True, "counts": True, "reml": False},
}


def covariance(model, theta):
    """cov(y) entry by entry: two rows share the weights that both have columns for."""
    n = model.rows.n
    w = np.ones(n) if model.rows.weights is None else model.rows.weights
    K = np.diag(theta[-1] ** 2 / w)
    for term, own in model.term_theta(theta):
        if term.flat:
            continue
        L = term.factor(own)
        S = L @ L.T if term.grouped else np.diag(L**2)
        shared = term.codes[:, None] == term.codes if term.grouped else np.ones((n, n))
        for j, k in np.ndindex(S.shape):
            K += S[j, k] * np.outer(term.columns[:, j], term.columns[:, k]) * shared
    return K


def definition(model, theta):
    """log p(y|θ), by the density of error contrasts (REML), or at the generalised least squares fit (ML)."""
    rows, K = model.rows, covariance(model, theta)
    X = np.column_stack([np.zeros((rows.n, 0)), *(t.columns for t in model.prior if t.flat)])
    y = rows.y - (0 if rows.offset is None else rows.offset)
    if rows.counts is not None:
        i = np.repeat(np.arange(rows.n), rows.counts)
        noise = theta[-1] ** 2 / (np.ones(rows.n) if rows.weights is None else rows.weights)
        K = (K - np.diag(noise))[np.ix_(i, i)] + np.diag(noise[i])
        X, y = X[i], y[i]
    if not X.shape[1]:
        return multivariate_normal(np.zeros(len(y)), K).logpdf(y)
    if model.reml:
        C = null_space(X.T)
        contrasts = multivariate_normal(np.zeros(C.shape[1]), C.T @ K @ C, allow_singular=False)
        return contrasts.logpdf(C.T @ y) - np.linalg.slogdet(X.T @ X)[1] / 2
    KX = np.linalg.solve(K, X)
    return multivariate_normal(X @ np.linalg.solve(X.T @ KX, KX.T @ y), K).logpdf(y)


@pytest.fixture(params=OPTIONS)
def model(request, problem, structure):
    return problem(structure, n=19, **OPTIONS[request.param])


def test_value_is_the_density_of_y(model, inside):
    for seed in range(3):
        theta = inside(model, seed)
        found = evaluate(Exact(), model, theta[None]).log_value
        np.testing.assert_allclose(found, [definition(model, theta)], rtol=1e-9)


def test_contract(model, inside):
    check_evidence(Exact(), model, inside(model))


def test_contract_at_zero_scales(model, inside):
    theta = inside(model)
    scales = [i for i, name in enumerate(model.hyperparameters.names) if name != "sd(noise)"]
    if len(scales) > 1:
        there = theta.copy()
        there[scales[0]] = 0
        check_evidence(Exact(), model, there)
    theta[scales] = 0
    check_evidence(Exact(), model, theta)
    np.testing.assert_allclose(evaluate(Exact(), model, theta[None]).log_value, [definition(model, theta)], rtol=1e-9)


@pytest.mark.parametrize("shape", [(25, 4), (9, 40), (60, 55), (55, 60), (120, 90), (90, 120), (7, 1)])
@pytest.mark.parametrize("flat", [0, 1, 3])
@pytest.mark.parametrize("targets", [1, 5])
def test_one_shared_scale(shape, flat, targets):
    """p < n and p > n, small and large enough for every basis, several targets each at a θ of its own."""
    n, p = shape
    rng = np.random.default_rng(p)
    X, F = rng.standard_normal((n, p)), np.column_stack([np.ones(n), rng.standard_normal((n, 2))])[:, :flat]
    Y = rng.standard_normal((n, targets)) + X[:, :1]
    y = Y[:, 0] if targets == 1 else Y
    prior = Flat(F) + Ridge(X) if flat else Prior((Ridge(X),))
    model = LinearModel(Gaussian(), prior, InMemory(y, rng.standard_normal(n), rng.uniform(0.5, 2, n)))
    theta = np.exp(rng.uniform(-1, 1, (targets, 2)))
    expected = [definition(model.target(v), theta[v]) for v in range(targets)]
    np.testing.assert_allclose(Exact()(model, theta).log_value, expected, rtol=1e-9)
    if n * p < 3000:
        check_evidence(Exact(), model, theta)
        theta[::2, 0] = 0
        check_evidence(Exact(), model, theta)


@pytest.mark.parametrize("p", [10, 58])
def test_primal_and_dual_agree(p):
    """Columns of zeros change nothing, but make the n × n form the cheaper one."""
    n = 60
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((n, p)), rng.standard_normal((n, 3))
    flat = Flat(np.ones(n))
    primal = LinearModel(Gaussian(), flat + Ridge(X), InMemory(y))
    dual = LinearModel(Gaussian(), flat + Ridge(np.column_stack([X, np.zeros((n, n))])), InMemory(y))
    assert primal.spectrum.primal
    assert not dual.spectrum.primal
    theta = np.array([[0.4, 1.1], [0.0, 0.8], [3.0, 0.2]])
    one, other = Exact()(primal, theta), Exact()(dual, theta)
    np.testing.assert_allclose(other.log_value, one.log_value, rtol=1e-9)
    np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.hessian, one.hessian, rtol=1e-9, atol=1e-9)


def test_noise_of_zero_where_the_columns_explain_everything():
    """p > n: without noise y is N(0, s²XXᵀ), an ordinary density."""
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((8, 30)), rng.standard_normal(8)
    model = LinearModel(Gaussian(), Prior((Ridge(X),)), InMemory(y))
    found = Exact()(model, np.array([[0.6, 0.0]]))
    np.testing.assert_allclose(found.log_value, multivariate_normal(np.zeros(8), 0.36 * X @ X.T).logpdf(y), rtol=1e-9)
    check_evidence(Exact(), model, [0.6, 0.0])


@pytest.mark.parametrize("mean", [0.0, 1e6, 1e10])
def test_a_large_mean_costs_only_the_digits_that_the_data_have_lost(mean):
    """Adding a constant that y can represent changes nothing when the intercept is integrated."""
    rng = np.random.default_rng(3)
    n = 40
    X, y = rng.standard_normal((n, 5)), np.round(rng.standard_normal(n) * 16) / 16
    for prior in (Flat(np.ones(n)) + Ridge(X), Flat(np.ones(n)) + Ridge(X) + Ridge(X[:, :2] ** 2, None, "sd(2)", "2")):
        near, far = (LinearModel(Gaussian(), prior, InMemory(y + m)) for m in (0.0, mean))
        theta = np.array([[*(0.5,) * (len(near.hyperparameters) - 1), 0.9]])
        one, other = evaluate(Exact(), near, theta), evaluate(Exact(), far, theta)
        np.testing.assert_allclose(other.log_value, one.log_value, rtol=1e-12)
        np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-10)


def test_counts_stand_for_repeated_rows():
    rng = np.random.default_rng(4)
    n = 15
    X, y, w = rng.standard_normal((n, 3)), rng.standard_normal(n), rng.uniform(0.5, 2, n)
    codes, counts = np.arange(n) % 4, rng.integers(1, 4, n)
    i = np.repeat(np.arange(n), counts)

    def prior(rows):
        return Flat(np.ones(len(rows))) + Ridge(X[rows]), Ridge(X[rows]) + RandomEffects(codes[rows], "abcd")

    for once, repeated in zip(prior(np.arange(n)), prior(i), strict=True):
        counted = LinearModel(Gaussian(), once, InMemory(y, None, w, counts))
        written = LinearModel(Gaussian(), repeated, InMemory(y[i], None, w[i]))
        theta = np.full((1, len(counted.hyperparameters)), 0.8)
        one, other = evaluate(Exact(), written, theta), evaluate(Exact(), counted, theta)
        np.testing.assert_allclose(other.log_value, one.log_value, rtol=1e-11)
        np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-10)
        np.testing.assert_allclose(other.hessian, one.hessian, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scalar_model_of_the_textbook(scale):
    rng = np.random.default_rng(5)
    x = rng.standard_normal(12)
    y = scale * (0.8 * x + rng.standard_normal(12))
    model = LinearModel(Gaussian(), Prior((Ridge(x),)), InMemory(y))
    for s, sigma in ((0.7, 0.9), (0.0, 1.3), (30.0, 0.2)):
        s, sigma = s * scale, sigma * scale
        e = Exact()(model, np.array([[s, sigma]]))
        np.testing.assert_allclose(e.log_value, [textbook.scalar_log_evidence(x, y, s**2, sigma**2)], rtol=1e-12)
        slope = textbook.scalar_log_evidence_slope(x, y, s**2, sigma**2)
        np.testing.assert_allclose(e.gradient[0, 0], 2 * s * slope, rtol=1e-9)
        w = textbook.scalar_map(x, y, s**2, sigma**2)
        np.testing.assert_allclose(e.posterior.mean["ridge"], [w], rtol=1e-12)


def test_log_evidence_is_an_average_over_the_prior():
    """The definition of the integral: simple Monte Carlo over draws of w, within four standard errors."""
    rng = np.random.default_rng(6)
    X = rng.standard_normal((6, 2))
    y = X @ [0.5, -0.3] + 0.7 * rng.standard_normal(6)
    model = LinearModel(Gaussian(), Prior((Ridge(X),)), InMemory(y))
    draws = 0.8 * rng.standard_normal((100_000, 2))

    def log_likelihood(w):
        return np.sum(-np.log(2 * np.pi * 0.49) / 2 - (y - w @ X.T) ** 2 / 0.98, axis=1)

    estimate = textbook.simple_monte_carlo(log_likelihood, draws)
    exact = Exact()(model, np.array([[0.8, 0.7]])).log_value[0]
    assert abs(estimate.log_evidence - exact) < 4 * estimate.std_error < 0.1


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4, 1e6, 1e8])
def test_scales_far_below_and_above_the_noise(scale, reml):
    """A balanced one-way layout, whose evidence follows from two sums of squares at any ratio of scales."""
    q, m = 6, 4
    rng = np.random.default_rng(7)
    y = np.round(rng.standard_normal((q, m)) * 64) / 64
    effects = RandomEffects(np.repeat(np.arange(q), m), "abcdef")
    model = LinearModel(Gaussian(), Flat(np.ones(q * m)) + effects, InMemory(y.reshape(-1)), reml)
    between, within = m * np.sum((y.mean(axis=1) - y.mean()) ** 2), np.sum((y - y.mean(axis=1, keepdims=True)) ** 2)
    total = 1 + m * scale**2
    terms = (q * m - reml) * np.log(2 * np.pi) + (q - reml) * np.log(total) + reml * np.log(q * m)
    expected = -(terms + within + between / total) / 2
    e = Exact()(model, np.array([scale, 1.0]))
    np.testing.assert_allclose(e.log_value, expected, rtol=1e-9)
    slope = -((q - reml) / total - between / total**2) * m * scale**2
    # The slope is a difference of terms of order s²/σ²: it keeps 16 − log10(s²/σ²) digits, at 1e8 none to compare.
    if scale < 1e8:
        np.testing.assert_allclose(e.gradient[0] * scale, slope, rtol=max(1e-8, 1e-15 * scale**2), atol=1e-9)


def test_only_for_gaussian_likelihoods(problem):
    model = problem("flat + ridge", Poisson())
    assert "needs a Gaussian likelihood, but this model's is Poisson" in Exact().unsuited(model)
    with pytest.raises(ValueError, match=r"method='exact' needs a Gaussian likelihood.*Use method='laplace'"):
        choose(model, "exact")
    assert type(choose(problem("slopes")).method) is Exact


def test_order_of_terms_does_not_matter(problem, inside):
    model = problem("everything")
    theta = dict(zip(model.hyperparameters.names, inside(model), strict=True))
    expected = None
    for shift in range(len(model.prior)):
        turned = replace(model, prior=Prior([*model.prior[shift:], *model.prior[:shift]]))
        names = turned.hyperparameters.names
        e = Exact()(turned, np.array([theta[name] for name in names]))
        values = [e.log_value, *(e.gradient[names.index(name)] for name in theta)]
        expected = values if expected is None else expected
        np.testing.assert_allclose(values, expected, rtol=1e-11)


class Changed:
    """The exact method with something changed in its evidence; not a method of its own, so not registered."""

    exact = True
    modal = True

    def __init__(self, change):
        self.change = change
        self.method = Laplace() if change is _shifted_posterior else Exact()

    def __call__(self, model, theta, start=None):
        e = self.method(model, theta)
        return replace(e, **self.change(e, theta, start))

    def batched(self, model):
        return self.method.batched(model)

    def unsuited(self, model):
        return Exact().unsuited(model)


def _shifted_posterior(e, theta, start):
    return {"posterior": replace(e.posterior, mean=e.posterior.mean + 1e-5)}


FAULTS = {
    "gradient": (lambda e, t, s: {"slope": e.gradient * (1 + 1e-5)}, "the gradient in .* differs from differences"),
    "forgotten constant": (lambda e, t, s: {"log_value": e.log_value + 0.5}, "is not the log density of y"),
    "forgotten log det": (
        lambda e, t, s: {"log_value": e.log_value + np.log(t[..., 0])},
        "the gradient in .* differs from differences",
    ),
    "hessian": (lambda e, t, s: {"curvature": e.hessian * 1.01}, "the Hessian's row"),
    "mode": (_shifted_posterior, "distance of the posterior mean from the mode"),
    "warm start": (
        lambda e, t, s: {"log_value": e.log_value + 1e-6 * (s is not None)},
        "a warm start changes the value",
    ),
    "not finite": (lambda e, t, s: {"slope": e.gradient * np.nan}, "log_value is .* and the gradient"),
    "trouble": (lambda e, t, s: {"checks": {"mode": "It went astray."}}, "It went astray"),
    "shape": (lambda e, t, s: {"slope": e.gradient[..., :1]}, "must have shapes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_contract_sees_faults(problem, inside, fault):
    model = problem("intercepts", n=15)
    change, sentence = FAULTS[fault]
    check_evidence(Changed(lambda e, t, s: {}), model, inside(model))
    with pytest.raises(AssertionError, match=sentence):
        check_evidence(Changed(change), model, inside(model))


def test_contract_sees_weights_that_are_not_at_the_mode(problem, inside):
    """Also for methods that answer for all targets at once."""
    model = problem("flat + ridge", n=15)

    def change(e, theta, start):
        return {"posterior": replace(e.posterior, a=e.posterior.a * (1 + 1e-4))}

    with pytest.raises(AssertionError, match="'ridge' is not where the score is zero"):
        check_evidence(Changed(change), model, inside(model))
