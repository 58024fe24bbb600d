# SPDX-License-Identifier: BSD-3-Clause
"""RidgeEB(family=…): the same as LinearModel for every family and form of groups; scores as scikit-learn has them."""

import numpy as np
import pytest
from sklearn.linear_model import GammaRegressor, PoissonRegressor

import marglik
from marglik import Flat, LinearModel, Ridge, RidgeEB
from marglik.interfaces.families import likelihood_of
from marglik.likelihoods import Bernoulli, Binomial, Likelihood, NegativeBinomial, Poisson

RNG = np.random.default_rng(8)
N, P = 90, 5
X = RNG.standard_normal((N, P)) + 1
W = np.array([0.5, -0.4, 0.2, 0.0, 0.0])
OWN = (2.0, 6.0)
FAMILIES = [name for name, kind in Likelihood.registry.items() if not kind.gaussian and not kind().needs_trials]


def response(likelihood, seed=0, shape=()):
    rng = np.random.default_rng(seed)
    eta = np.multiply.outer(X @ W - 0.3, np.ones(shape))
    return likelihood.sample(eta, OWN[: len(likelihood.hyperparameters())], rng)


@pytest.mark.parametrize("groups", [None, "columns", list("aabbb"), [[0, 1], [2, 3, 4]], "input"], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_linear_model(family, groups):
    likelihood = likelihood_of(family)
    y = response(likelihood)
    given = [X[:, :2], X[:, 2:]] if groups == "input" else X
    own = RidgeEB(groups, family=family).fit(given, y)
    place = None if groups is None else np.arange(P) if groups == "columns" else np.array([0, 0, 1, 1, 1])
    scales = None if place is None else [f"sd({i})" for i in range(place.max() + 1)]
    ridge = Ridge(X) if place is None else Ridge(X, groups=place, scales=scales)
    fit = marglik.fit(LinearModel(likelihood, Flat(np.ones(N), ["Intercept"]) + ridge, y))
    np.testing.assert_allclose(own.log_evidence_, fit.log_evidence, rtol=1e-9)
    np.testing.assert_allclose(own.coef_, fit.posterior.mean["ridge"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.predict(given), fit.predict(), rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(own.sigma_.diagonal()), fit.posterior.sd["ridge"], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(own.edf_, fit.edf["ridge"], rtol=1e-5, atol=1e-9)
    s = fit.hyperparameters["estimate"].to_numpy()[: 1 if place is None else len(scales)]
    with np.errstate(divide="ignore"):
        expected = 1 / s[0] ** 2 if place is None else 1 / s[place] ** 2
    np.testing.assert_allclose(own.lambda_, expected, rtol=1e-5)
    assert not hasattr(own, "alpha_")
    assert own.score(given, y) < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_deviation_is_that_of_new_observations(family):
    """Against draws of weights from the posterior and of y from the likelihood."""
    likelihood = likelihood_of(family)
    own = RidgeEB(family=family).fit(X, response(likelihood))
    new = X[:4] * 1.5
    mean, std = own.predict(new, return_std=True)
    np.testing.assert_allclose(mean, own.predict(new), rtol=1e-12)
    w = own.fit_.posterior.sample(400_000, seed=0)
    theta = own.fit_.optimum.theta[0, 1:]
    eta = w["intercept"] + w["weights"] @ new.T
    total = likelihood.variance(eta, theta).mean(axis=0) + likelihood.mean(eta, theta).var(axis=0)
    np.testing.assert_allclose(std**2, total, rtol=0.03)


@pytest.mark.parametrize(("family", "peer"), [("poisson", PoissonRegressor()), ("gamma", GammaRegressor())])
def test_the_score_is_scikit_learns_share_of_deviance(family, peer):
    y = response(likelihood_of(family))
    own = RidgeEB(family=family).fit(X, y)
    peer.fit(X, y)
    peer.coef_, peer.intercept_ = own.coef_, own.intercept_
    w = np.random.default_rng(0).uniform(size=N)
    np.testing.assert_allclose(own.score(X, y), peer.score(X, y), rtol=1e-9)
    np.testing.assert_allclose(own.score(X, y, w), peer.score(X, y, w), rtol=1e-9)


def test_many_targets_each_with_its_own_dispersion():
    likelihood = NegativeBinomial()
    Y = response(likelihood, shape=(3,))
    own = RidgeEB(family="negative_binomial").fit(X, Y)
    assert own.hyperparameters_.index.names == ["target", "name"]
    assert (own.coef_.shape, own.intercept_.shape, own.predict(X).shape) == ((3, P), (3,), (N, 3))
    alone = [RidgeEB(family=likelihood).fit(X, Y[:, v]) for v in range(3)]
    np.testing.assert_allclose(own.coef_, [one.coef_ for one in alone], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.log_evidence_, [one.log_evidence_ for one in alone], rtol=1e-9)
    np.testing.assert_allclose(own.lambda_, [one.lambda_ for one in alone], rtol=1e-5)
    np.testing.assert_allclose(own.sigma_, [one.sigma_ for one in alone], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(own.score(X, Y), np.mean([a.score(X, Y[:, v]) for v, a in enumerate(alone)]), rtol=1e-6)
    mean, std = own.predict(X, return_std=True)
    for v, one in enumerate(alone):
        np.testing.assert_allclose(mean[:, v], one.predict(X), rtol=1e-6)
        np.testing.assert_allclose(std[:, v], one.predict(X, return_std=True)[1], rtol=1e-5)


def test_a_silent_target_costs_no_other():
    Y = response(Poisson(), shape=(3,))
    Y[:, 0] = 0
    with pytest.warns(UserWarning, match="Target 0 could not be learned"):
        own = RidgeEB(family="poisson").fit(X, Y)
    assert np.isnan(own.coef_[0]).all()
    assert np.isnan(own.sigma_[0]).all()
    assert np.isfinite(own.coef_[1:]).all()
    assert own.converged_.tolist() == [False, True, True]


@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli("probit"), NegativeBinomial()])
def test_weights_of_rows_mean_repetition(likelihood):
    y = response(likelihood)
    counts = np.random.default_rng(5).integers(0, 4, N)
    weighted = RidgeEB(family=likelihood).fit(X, y, sample_weight=counts)
    repeated = RidgeEB(family=likelihood).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    np.testing.assert_allclose(weighted.log_evidence_, repeated.log_evidence_, rtol=1e-8)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-5, atol=1e-8)


def test_successes_in_numbers_of_trials():
    trials = np.random.default_rng(0).integers(1, 20, N).astype(float)
    y = np.random.default_rng(1).binomial(trials.astype(int), 1 / (1 + np.exp(-X @ W))).astype(float)
    own = RidgeEB(family=Binomial(trials=trials)).fit(X, y)
    rows = np.repeat(np.arange(N), trials.astype(int))
    single = np.concatenate([np.repeat([1.0, 0.0], [int(k), int(n - k)]) for k, n in zip(y, trials, strict=True)])
    one_by_one = RidgeEB(family="bernoulli").fit(X[rows], single)
    np.testing.assert_allclose(own.coef_, one_by_one.coef_, rtol=1e-6)
    for mine, other in zip(own.predict(X[:7], True), one_by_one.predict(X[:7], True), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)
    left_out = np.arange(N) % 3 == 0
    part = RidgeEB(family=Binomial(trials=trials)).fit(X, y, sample_weight=1.0 * ~left_out)
    alone = RidgeEB(family=Binomial(trials=trials[~left_out])).fit(X[~left_out], y[~left_out])
    np.testing.assert_allclose(part.coef_, alone.coef_, rtol=1e-8)
    with pytest.raises(ValueError, match="numbers of trials for 90 rows"):
        own.score(X[:5], y[:5])
