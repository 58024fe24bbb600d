# SPDX-License-Identifier: BSD-3-Clause
"""Smooth weights on a grid: the prior, its compact coordinates, and what is recovered with it."""

import numpy as np
import pytest
from scipy.special import expit, gammaln
from sklearn.linear_model import LogisticRegression, PoissonRegressor, RidgeCV
from sklearn.model_selection import GridSearchCV

import marglik
from marglik.evidence import EvidenceMethod
from marglik.likelihoods import Bernoulli, Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, ReceptiveField, Ridge
from marglik.testing import check_prior, derivative

rng = np.random.default_rng(11)
X = rng.standard_normal((70, 60))
SHAPE = (5, 4, 3)
TERM = ReceptiveField(X, SHAPE)


def flat(n):
    return Flat(np.ones(n), ["Intercept"])


def test_covariance_is_the_definition():
    theta = np.array([0.7, 2.0, 1.5, 3.0])
    cells = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1).reshape(-1, 3)
    z = (cells[:, None] - cells[None]) / theta[1:]
    K = 0.7**2 * np.exp(-np.sum(z**2, axis=2) / 2)
    np.testing.assert_allclose(TERM.covariance(theta), K, rtol=0, atol=1e-14)
    L = TERM.factor(theta)
    np.testing.assert_allclose(L @ L.T, K, rtol=0, atol=1e-13)


@pytest.mark.parametrize("theta", [[0.7, 0.9, 1.5, 1.2], [2.0, 0.05, 0.6, 4.0]])
@pytest.mark.parametrize("compact", [False, True])
def test_derivatives_of_the_covariance(theta, compact):
    theta = np.array(theta)
    term = ReceptiveField(X, SHAPE, spacing=(0.5, 1.0, 2.0))
    term = term.compact(theta) if compact else term
    tangents, curvatures = term.covariance_tangents(theta), term.covariance_curvatures(theta)
    for e, first, second in zip(np.eye(4), tangents, curvatures, strict=True):
        step = 0.05 * max(theta @ e, 0.1)
        slopes = derivative(lambda t, e=e: term.covariance(theta + t * e), step)
        bends = derivative(lambda t, e=e: term.covariance_tangents(theta + t * e), step)
        np.testing.assert_allclose(first, slopes, rtol=0, atol=1e-8)
        np.testing.assert_allclose(second, bends, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [12, (12,), (3, 4), (1, 12), (2, 1, 6), (2, 2, 3)])
def test_contract_for_every_number_of_dimensions(shape):
    def term(c):
        return ReceptiveField(c * X[:, :12], shape)

    check_prior(term(1.0), scaled=term)
    sizes = [m for m in np.atleast_1d(shape) if m > 1]
    assert len(term(1.0).hyperparameters()) == 1 + len(sizes)


@pytest.mark.parametrize("theta", [[0.7, 1.9, 2.0, 1.3], [0.7, 4, 3.9, 5], [0.7, 30, 9, 2.4], [0.7, 0.2, 8.0, 1e6]])
def test_compact_coordinates_have_the_same_covariance(theta):
    theta = np.array(theta)
    term = TERM.compact(theta)
    M = np.eye(60) if term.mixing is None else term.mixing
    left_out = TERM.covariance(theta) - M @ term.covariance(theta) @ M.T
    assert np.linalg.norm(left_out, 2) < 1e-9 * np.linalg.norm(TERM.covariance(theta), 2)
    np.testing.assert_allclose(term.columns, X @ M, rtol=0, atol=1e-12)
    np.testing.assert_allclose(term.covariance(theta), term.factor(theta) @ term.factor(theta).T, rtol=0, atol=1e-11)
    assert term.compact(theta) is term
    assert TERM.compact(theta * [2.0, 1.001, 1.001, 1.001]) is term or M.shape[1] < 60


def test_long_length_scales_take_few_coordinates():
    sizes = [TERM.compact(np.array([1.0, ell, ell, ell])).n_weights for ell in (0.1, 3.0, 10.0, 100.0, 1e9)]
    assert sizes[0] == 60
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


@pytest.mark.parametrize("likelihood", [Gaussian(), Poisson()])
def test_the_evidence_is_the_same_on_both_sides_of_a_rung(likelihood):
    y = rng.poisson(1.5, 70).astype(float)
    model = LinearModel(likelihood, flat(70) + ReceptiveField(0.2 * X, 60), y)
    method = EvidenceMethod.registry["exact" if likelihood.gaussian else "laplace"]()
    own = [0.9] if likelihood.gaussian else []
    below, above = (np.array([0.5, 8.0 * c, *own]) for c in (1 - 1e-10, 1 + 1e-10))
    assert model.compact(0.99 * below).n_weights > model.compact(1.01 * above).n_weights
    a, b = method(model, below), method(model, above)
    np.testing.assert_allclose(a.log_value, b.log_value, rtol=0, atol=1e-8)
    np.testing.assert_allclose(a.gradient, b.gradient, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(5, 4, 3), (1, 60)])
def test_what_acts_on_matrices_is_the_factor(shape):
    term = ReceptiveField(X, shape, spacing=0.5)
    theta = np.array([0.7, 0.8, 1.1, 0.6])[: len(term.hyperparameters())]
    R = rng.standard_normal((3, 60))
    np.testing.assert_allclose(R @ term.acting(theta), R @ term.factor(theta), rtol=0, atol=1e-12)
    np.testing.assert_allclose(R @ term.acting(theta).T, R @ term.factor(theta).T, rtol=0, atol=1e-12)
    for direction in (*np.eye(len(theta)), np.zeros(len(theta)), np.arange(1.0, len(theta) + 1)):
        own, expected = term.acting(theta, direction), term.factor_jvp(theta, direction)
        np.testing.assert_allclose(R @ own, R @ expected, rtol=0, atol=1e-12)


def test_gradient_of_laplaces_evidence_of_two_fields():
    y = rng.poisson(1.5, 70).astype(float)
    prior = flat(70) + ReceptiveField(0.2 * X, SHAPE) + ReceptiveField(X[:, :6], 6, label="history")
    model, method = LinearModel(Poisson(), prior, y), EvidenceMethod.registry["laplace"]()
    theta = np.array([0.4, 1.5, 1.1, 2.0, 0.3, 1.4])
    slope = [derivative(lambda t, e=e: method(model, theta + t * e).log_value, 0.05) for e in np.eye(6)]
    np.testing.assert_allclose(method(model, theta).gradient, slope, rtol=0, atol=1e-7)


def test_no_smoothness_is_ridge_and_endless_smoothness_one_weight():
    y = rng.poisson(1.5, 70).astype(float)
    fit = EvidenceMethod.registry["laplace"]()
    model = LinearModel(Poisson(), flat(70) + ReceptiveField(0.2 * X, SHAPE), y)
    ridge = LinearModel(Poisson(), flat(70) + Ridge(0.2 * X), y)
    mean = LinearModel(Poisson(), flat(70) + Ridge(0.2 * X.sum(axis=1)), y)
    values = [fit(model, np.array([0.3, ell, ell, ell])).log_value for ell in (1e-2, 1e9)]
    expected = [fit(other, np.array([0.3])).log_value for other in (ridge, mean)]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("likelihood", [Gaussian(), Poisson()])
def test_units_of_the_stimulus_and_of_the_grid(likelihood):
    w = np.exp(-((np.arange(20) - 8) ** 2) / 18)
    S = rng.standard_normal((150, 20))
    y = S @ w + rng.standard_normal(150) if likelihood.gaussian else rng.poisson(np.exp(0.6 * S @ w)).astype(float)
    one = marglik.fit(LinearModel(likelihood, flat(150) + ReceptiveField(S, 20), y))
    other = marglik.fit(LinearModel(likelihood, flat(150) + ReceptiveField(1e4 * S[:, ::-1], 20, spacing=0.01), y))
    a, b = one.hyperparameters["estimate"], other.hyperparameters["estimate"]
    np.testing.assert_allclose(b["sd(field)"] * 1e4, a["sd(field)"], rtol=1e-5)
    np.testing.assert_allclose(b["length_scale(field)[lag]"] * 100, a["length_scale(field)[lag]"], rtol=1e-5)
    np.testing.assert_allclose(one.log_evidence, other.log_evidence, rtol=0, atol=1e-7)
    np.testing.assert_allclose(one.predict(), other.predict(), rtol=1e-5, atol=1e-7)


def test_exact_and_laplace_agree_in_every_table():
    w = np.exp(-((np.arange(20) - 8) ** 2) / 18)
    S = rng.standard_normal((90, 20))
    model = LinearModel(Gaussian(), flat(90) + ReceptiveField(S, 20), S @ w + rng.standard_normal(90))
    exact, laplace = marglik.fit(model), marglik.fit(model, method="laplace")
    for name in ("estimate", "se", "lower", "upper"):
        a, b = exact.hyperparameters[name], laplace.hyperparameters[name]
        np.testing.assert_allclose(a, b, rtol=1e-4, err_msg=name)
    for name in ("mean", "sd"):
        a, b = getattr(exact.posterior, name)["field"], getattr(laplace.posterior, name)["field"]
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(exact.edf, laplace.edf, rtol=1e-3)
    np.testing.assert_allclose(exact.occam, laplace.occam, rtol=0, atol=2e-3)
    new = {"fixed effects": np.ones((5, 1)), "field": S[:5]}
    np.testing.assert_allclose(exact.predict(new), exact.predict()[:5], rtol=1e-12)
    draws = exact.posterior.sample(4000, seed=1)["field"]
    error = np.abs(draws.std(axis=0) / exact.posterior.sd["field"] - 1).max()
    assert error < 4 / np.sqrt(2 * 4000) * 1.5


@pytest.mark.parametrize("likelihood", [Gaussian(), Poisson()])
def test_a_fit_can_be_saved(tmp_path, likelihood):
    S = rng.standard_normal((80, 12))
    y = rng.poisson(np.exp(0.4 * S[:, 3:6].sum(axis=1))).astype(float)
    fit = marglik.fit(LinearModel(likelihood, flat(80) + ReceptiveField(S, (3, 4), spacing=(10, 1)), y))
    fit.save(tmp_path / "field.marglik")
    back = marglik.load(tmp_path / "field.marglik")
    np.testing.assert_allclose(back.log_evidence, fit.log_evidence, rtol=1e-13)
    np.testing.assert_allclose(back.predict(interval=0.9), fit.predict(interval=0.9), rtol=1e-9)


def test_a_limit_is_said():
    S = rng.standard_normal((200, 15))
    y = S @ rng.choice([-1.0, 1.0], 15) + 0.3 * rng.standard_normal(200)
    ridge = marglik.fit(LinearModel(Gaussian(), flat(200) + ReceptiveField(S, 15), y))
    assert ridge.hyperparameters.loc["length_scale(field)[lag]", "at_boundary"]
    assert ridge.hyperparameters.loc["length_scale(field)[lag]", "estimate"] == 0
    assert "length_scale(field)[lag] is at zero" in str(ridge.check())
    y = S.sum(axis=1) + 0.3 * rng.standard_normal(200)
    constant = marglik.fit(LinearModel(Gaussian(), flat(200) + ReceptiveField(S, 15), y))
    assert constant.hyperparameters.loc["length_scale(field)[lag]", "estimate"] == np.inf
    assert "length_scale(field)[lag] is at its limit, inf" in str(constant.check())


def test_stimulus_and_history_in_one_model_for_several_neurons():
    n, kernel, after = 400, np.exp(-np.arange(8) / 3) * 0.5, -1.5 * np.exp(-np.arange(6) / 2)
    x = rng.standard_normal(n)
    S = marglik.lagged(x, 8)
    Y = np.zeros((n, 2))
    for v in range(2):
        for i in range(n):
            past = Y[max(i - 6, 0) : i, v][::-1]
            Y[i, v] = rng.poisson(np.exp(-0.5 + (1 - 2 * v) * S[i] @ kernel + past @ after[: len(past)]))
    for v in range(2):
        H = marglik.lagged(Y[:, v], 6, first=1)
        prior = flat(n) + ReceptiveField(S, 8, label="stimulus") + ReceptiveField(H, 6, label="history")
        fit = marglik.fit(LinearModel(Poisson(), prior, Y[:, v]))
        found = fit.posterior.mean
        assert np.corrcoef(found["stimulus"], (1 - 2 * v) * kernel)[0, 1] > 0.9
        assert found["history"][0] < -0.5
    both = marglik.fit(LinearModel(Poisson(), flat(n) + ReceptiveField(S, 8), Y))
    alone = marglik.fit(LinearModel(Poisson(), flat(n) + ReceptiveField(S, 8), Y[:, 1]))
    np.testing.assert_allclose(both.log_evidence[1], alone.log_evidence, rtol=1e-10)
    assert both.posterior.mean["field"].shape == (2, 8)


BAD = [
    (lambda: ReceptiveField(X, (5, 4)), r"shape of 'field' is 5 x 4 = 20 cells, but X has 60 columns"),
    (lambda: ReceptiveField(X, (5, 4, 3, 1)), "must be one, two or three numbers of cells"),
    (lambda: ReceptiveField(X, (-5, -12)), "must be one, two or three numbers of cells"),
    (lambda: ReceptiveField(X[:, :1], 1), "has a single cell, so that nothing can be smooth. Use Ridge"),
    (lambda: ReceptiveField(X, SHAPE, dims=("a", "a", "b")), "Give each a name of its own"),
    (lambda: ReceptiveField(X, SHAPE, dims=("a", "b")), "has 3 dimensions, but dims are 'a', 'b'"),
    (lambda: ReceptiveField(X, SHAPE, spacing=(1, 2)), "spacing of 'field' must be a positive number, or 3"),
    (lambda: ReceptiveField(X, SHAPE, spacing=0.0), "spacing of 'field' must be a positive number, or 3"),
    (lambda: ReceptiveField(np.ones((9, 4)), 4), "all constant, so they say nothing that an intercept does not"),
    (lambda: ReceptiveField(np.where(X > 2, np.nan, X), SHAPE), "column 'x"),
]


@pytest.mark.parametrize(("make", "sentence"), BAD)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


FAMILIES = {"gaussian": Gaussian(), "poisson": Poisson(), "bernoulli": Bernoulli()}
GRID, SCALES = (12, 10), (2.5, 1.8)


def simulated(family, n, seed):
    """A neuron whose field is drawn from the prior, and its responses to n + 1,000 frames of noise."""
    draw = np.random.default_rng(seed)
    S = draw.standard_normal((n + 1000, 120))
    L = ReceptiveField(S[:2], GRID).factor(np.array([1.0, *SCALES]))
    w = L @ draw.standard_normal(120)
    w *= (1.0 if family == "gaussian" else 0.7) / np.linalg.norm(w)
    eta = S @ w * (2 if family == "bernoulli" else 1)
    y = {
        "gaussian": lambda: eta + draw.standard_normal(len(eta)),
        "poisson": lambda: draw.poisson(np.exp(eta - 0.5)),
        "bernoulli": lambda: draw.random(len(eta)) < expit(eta),
    }[family]()
    return S, y.astype(float), w


def held_out(family, y, mean, sd=1.0):
    """Log-likelihood of new responses, in nats a row."""
    if family == "gaussian":
        return np.mean(-((y - mean) ** 2) / (2 * sd**2) - np.log(sd) - np.log(2 * np.pi) / 2)
    if family == "poisson":
        return np.mean(y * np.log(mean) - mean - gammaln(y + 1))
    return np.mean(np.log(np.where(y > 0, mean, 1 - mean)))


def cross_validated(family, S, y, new):
    """Means of new responses under the best of a grid of penalties."""
    grid = np.logspace(-1, 4, 11)
    if family == "gaussian":
        return RidgeCV(grid).fit(S, y).predict(new)
    if family == "poisson":
        regressor = PoissonRegressor(solver="newton-cholesky", max_iter=100)
        return GridSearchCV(regressor, {"alpha": grid / len(y)}, cv=5).fit(S, y).predict(new)
    classifier = LogisticRegression(solver="newton-cholesky")
    search = GridSearchCV(classifier, {"C": 1 / grid}, cv=5, scoring="neg_log_loss")
    return search.fit(S, y).predict_proba(new)[:, 1]


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 400])
@pytest.mark.parametrize("family", FAMILIES)
def test_smoothness_predicts_better_than_ridge(family, n):
    """With fewer rows than weights, and with more: in each of six neurons, by held-out log-likelihood."""
    better = []
    for seed in range(6):
        S, y, _ = simulated(family, n, seed)
        new = {"fixed effects": np.ones((1000, 1)), "field": S[n:]}
        gained = []
        for term in (ReceptiveField(S[:n], GRID), Ridge(S[:n], label="field")):
            fit = marglik.fit(LinearModel(FAMILIES[family], flat(n) + term, y[:n]))
            gained.append(held_out(family, y[n:], fit.predict(new)))
        gained.append(held_out(family, y[n:], cross_validated(family, S[:n], y[:n], S[n:])))
        better.append([gained[0] - gained[1], gained[0] - gained[2]])
    assert np.mean(better, axis=0).min() > 0
    assert np.mean(np.array(better) > 0) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_length_scales_are_recovered(family):
    """Of twenty neurons, 95 % intervals hold the length scales from which their fields were drawn."""
    inside = []
    for seed in range(20):
        S, y, _ = simulated(family, 600, 100 + seed)
        fit = marglik.fit(LinearModel(FAMILIES[family], flat(600) + ReceptiveField(S[:600], GRID), y[:600]))
        table = fit.hyperparameters.iloc[1:3]
        inside.append((table["lower"].to_numpy() <= SCALES) & (table["upper"].to_numpy() >= SCALES))
    assert np.mean(inside) >= 0.8
