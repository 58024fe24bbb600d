# SPDX-License-Identifier: BSD-3-Clause
"""RidgeEB: scikit-learn's contract, BayesianRidge's meaning, and bad input."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from marglik import RidgeEB


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([RidgeEB(), RidgeEB(fit_intercept=False)])
def test_the_contract_of_estimators(estimator, check):
    check(estimator)


def data(n=40, p=6, V=None, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 3
    W = rng.standard_normal((p, *([] if V is None else [V])))
    return X, 7 + X @ W + noise * rng.standard_normal((n, *([] if V is None else [V])))


def test_equals_bayesian_ridge_where_that_maximises_the_same_thing():
    """Centred data, no intercept to integrate, no hyperpriors: then scikit-learn's maximum is ours."""
    X, y = load_diabetes(return_X_y=True)
    y = y - y.mean()
    peer = BayesianRidge(
        alpha_1=0,
        alpha_2=0,
        lambda_1=0,
        lambda_2=0,
        tol=1e-14,
        max_iter=100_000,
        fit_intercept=False,
        compute_score=True,
    ).fit(X, y)
    own = RidgeEB(fit_intercept=False).fit(X, y)
    np.testing.assert_allclose(own.alpha_, peer.alpha_, rtol=1e-7)
    np.testing.assert_allclose(own.lambda_, peer.lambda_, rtol=1e-7)
    np.testing.assert_allclose(own.coef_, peer.coef_, rtol=1e-6)
    np.testing.assert_allclose(own.sigma_, peer.sigma_, rtol=1e-6)
    np.testing.assert_allclose(own.log_evidence_, peer.scores_[-1], rtol=1e-10)
    mean, std = own.predict(X[:5], return_std=True)
    peer_mean, peer_std = peer.predict(X[:5], return_std=True)
    np.testing.assert_allclose(mean, peer_mean, rtol=1e-6)
    np.testing.assert_allclose(std, peer_std, rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 6), (120, 70), (30, 50), (70, 90)])
def test_the_posterior_is_that_of_the_joint_gaussian(shape):
    """Weights and a flat intercept together, by dense algebra, in the primal and the dual."""
    X, y = data(*shape)
    own = RidgeEB().fit(X, y)
    n, p = X.shape
    A = np.column_stack([np.ones(n), X])
    H = own.alpha_ * A.T @ A + np.diag([0.0, *np.full(p, own.lambda_)])
    mean, covariance = np.linalg.solve(H, own.alpha_ * A.T @ y), np.linalg.inv(H)
    np.testing.assert_allclose(own.intercept_, mean[0], rtol=1e-7)
    np.testing.assert_allclose(own.coef_, mean[1:], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.sigma_, covariance[1:, 1:], rtol=1e-6, atol=1e-9)
    new = np.random.default_rng(1).standard_normal((4, p))
    _, std = own.predict(new, return_std=True)
    B = np.column_stack([np.ones(4), new])
    np.testing.assert_allclose(std**2, np.einsum("ij,jk,ik->i", B, covariance, B) + 1 / own.alpha_, rtol=1e-6)
    np.testing.assert_allclose(own.edf_, p - own.lambda_ * np.trace(covariance[1:, 1:]), rtol=1e-6)
    fixed = own.fit_.vcov().to_numpy()
    np.testing.assert_allclose(fixed, covariance[:1, :1], rtol=1e-6)
    occam = own.fit_.occam["nats"]
    np.testing.assert_allclose(occam.sum(), own.log_evidence_, rtol=1e-10)
    block = np.linalg.slogdet(H[1:, 1:] / own.lambda_)[1]
    expected = -own.lambda_ * mean[1:] @ mean[1:] / 2 - block / 2
    np.testing.assert_allclose(occam["weights"], expected, rtol=1e-7)


def test_draws_have_the_posterior_moments():
    X, y = data(30, 4)
    own = RidgeEB().fit(X, y)
    draws = own.fit_.posterior.sample(20_000, seed=3)
    w = np.column_stack([draws["intercept"], draws["weights"]])
    A = np.column_stack([np.ones(30), X])
    covariance = np.linalg.inv(own.alpha_ * A.T @ A + np.diag([0.0, *np.full(4, own.lambda_)]))
    mean = np.array([own.intercept_, *own.coef_])
    z = (w.mean(axis=0) - mean) / np.sqrt(covariance.diagonal() / len(w))
    assert np.abs(z).max() < 4
    whitened = (w - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.abs(np.cov(whitened.T) - np.eye(5)).max() < 4 * np.sqrt(2 / len(w))


def test_targets_are_fitted_one_by_one():
    X, Y = data(V=5)
    together = RidgeEB().fit(X, Y)
    for v in range(5):
        alone = RidgeEB().fit(X, Y[:, v])
        np.testing.assert_allclose(together.coef_[v], alone.coef_, rtol=1e-8)
        np.testing.assert_allclose(together.intercept_[v], alone.intercept_, rtol=1e-8)
        np.testing.assert_allclose(together.log_evidence_[v], alone.log_evidence_, rtol=1e-12)
        np.testing.assert_allclose(together.edf_[v], alone.edf_, rtol=1e-8)
        pd.testing.assert_frame_equal(together.hyperparameters_.loc[v], alone.hyperparameters_, rtol=1e-6)
    assert together.predict(X).shape == (40, 5)
    assert together.converged_.shape == (5,)
    assert together.converged_.all()


def test_standard_errors_are_the_inverse_curvature():
    X, y = data()
    own = RidgeEB().fit(X, y)
    theta = own.hyperparameters_["estimate"].to_numpy()

    def value(phi):
        return own.fit_.log_evidence_at(dict(zip(own.hyperparameters_.index, np.exp(phi), strict=True)))

    phi, h, H = np.log(theta), 1e-3, np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            d, e = np.eye(2)[i] * h, np.eye(2)[j] * h
            H[i, j] = (value(phi + d + e) - value(phi + d - e) - value(phi - d + e) + value(phi - d - e)) / (4 * h * h)
    se = np.sqrt(np.linalg.inv(-H).diagonal())
    np.testing.assert_allclose(own.hyperparameters_["se"], theta * se, rtol=1e-4)
    np.testing.assert_allclose(own.hyperparameters_["upper"], theta * np.exp(stats.norm.ppf(0.975) * se), rtol=1e-4)


@pytest.mark.parametrize("shape", [(30, 4), (20, 35)])
def test_weights_of_rows_mean_repetition(shape):
    X, y = data(*shape)
    counts = np.random.default_rng(5).integers(0, 4, len(X))
    weighted = RidgeEB().fit(X, y, sample_weight=counts)
    repeated = RidgeEB().fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    if shape[1] < shape[0]:  # with more columns than distinct rows repeated rows are reproduced exactly
        np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(weighted.log_evidence_, repeated.log_evidence_, rtol=1e-9)
        np.testing.assert_allclose(weighted.hyperparameters_["se"], repeated.hyperparameters_["se"], rtol=1e-6)
    np.testing.assert_allclose(weighted.predict(X[counts > 0]), repeated.predict(X[counts > 0]), rtol=1e-4)


def test_more_columns_than_rows_finds_the_maximum_and_not_the_plateau():
    """BayesianRidge stops where the noise has vanished; by the evidence of both, ours is the maximum."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 400))
    y = X @ rng.standard_normal(400) / 20 + rng.standard_normal(60)
    own, peer = RidgeEB(fit_intercept=False).fit(X, y), BayesianRidge(fit_intercept=False).fit(X, y)
    there = own.fit_.log_evidence_at({"sd(weights)": peer.lambda_**-0.5, "sd(noise)": peer.alpha_**-0.5})
    assert own.log_evidence_ >= there
    d, U = np.linalg.eigh(X @ X.T)
    c2 = (U.T @ y) ** 2
    t = np.linspace(-15, 25, 8001)
    S = (c2 / (d + np.exp(t)[:, None])).sum(axis=1) / 60  # s² at its best given λ
    grid = -30 * (np.log(2 * np.pi * S) + 1) - np.log(d + np.exp(t)[:, None]).sum(axis=1) / 2
    assert own.log_evidence_ > grid.max() - 1e-9


def test_units_change_nothing():
    X, y = data()
    one = RidgeEB().fit(X, y)
    for a, b in [(1e6, 1e-6), (1e-6, 1e6)]:
        other = RidgeEB().fit(X * a, y * b)
        np.testing.assert_allclose(other.predict(X * a), one.predict(X) * b, rtol=1e-8)
        np.testing.assert_allclose(other._theta, one._theta * [b / a, b], rtol=1e-6)
        np.testing.assert_allclose(other.log_evidence_, one.log_evidence_ - 39 * np.log(b), rtol=1e-9)


@pytest.mark.parametrize("shape", [(60, 5), (90, 60), (20, 60), (60, 90)])
@pytest.mark.parametrize("targets", [1, 3])
def test_the_means_of_columns_change_nothing_but_the_intercept(shape, targets):
    """Far from zero the design is projected before it is multiplied; predictions and their errors are the same."""
    rng = np.random.default_rng(11)
    X = rng.standard_normal(shape)
    means = 1e5 * rng.uniform(0.5, 1, shape[1])
    y = X @ rng.standard_normal((shape[1], targets)) + rng.standard_normal((shape[0], targets))
    y = y[:, 0] if targets == 1 else y
    near, far = RidgeEB().fit(X, y), RidgeEB().fit(X + means, y)
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=0, atol=1e-7 * np.abs(near.coef_).max())
    np.testing.assert_allclose(far.intercept_, near.intercept_ - near.coef_ @ means, rtol=1e-7)
    new = rng.standard_normal((7, shape[1]))
    for one, other in zip(near.predict(new, return_std=True), far.predict(new + means, return_std=True), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * np.abs(y).max())


def test_layouts_and_precisions_of_arrays_change_nothing():
    X, y = data()
    one = RidgeEB().fit(X, y)
    for other_X, other_y in [
        (np.asfortranarray(X), y),
        (np.repeat(X, 2, axis=1)[:, ::2], y),
        (X.tolist(), y.tolist()),
        (pd.DataFrame(X), pd.Series(y)),
    ]:
        np.testing.assert_allclose(RidgeEB().fit(other_X, other_y).coef_, one.coef_, rtol=1e-9)
    single = X.astype(np.float32)
    np.testing.assert_allclose(RidgeEB().fit(single, y).coef_, RidgeEB().fit(single.astype(float), y).coef_, rtol=1e-9)


def test_works_with_scikit_learn():
    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = RidgeEB().fit(frame, y)
    assert list(model.feature_names_in_) == list("abcdef")
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    np.testing.assert_allclose(again.log_evidence_, model.log_evidence_, rtol=1e-14)
    assert cross_val_score(clone(model), X, y).mean() > 0.9


def test_collinear_and_constant_columns_are_fitted_because_the_prior_is_proper():
    X, y = data()
    doubled = np.column_stack([X, X[:, 0], np.full(len(X), 2.0)])
    model = RidgeEB().fit(doubled, y)
    np.testing.assert_allclose(model.coef_[0], model.coef_[6], rtol=1e-6)
    np.testing.assert_allclose(model.coef_[7], 0, atol=1e-9)
    assert model.converged_


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(20, 4), (70, 60), (20, 30), (60, 90)])
def test_values_that_are_not_finite_are_named(bad, shape):
    X, y = data(*shape)
    X[3, 2] = bad
    word = "NaN" if np.isnan(bad) else "infinity"
    with pytest.raises(ValueError, match=rf"'x2' contains {word} in row 3"):
        RidgeEB().fit(X, y)
    X, y = data(*shape)
    y[5] = bad
    with pytest.raises(ValueError, match=f"'y' contains {word} in row 5"):
        RidgeEB().fit(X, y)


def test_other_bad_input_gets_a_sentence():
    X, y = data()
    with pytest.raises(ValueError, match="The response is constant"):
        RidgeEB().fit(X, np.ones(40))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        RidgeEB().fit(X, y[:-1])
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        RidgeEB().fit(X[:1], y[:1])
    with pytest.raises(ValueError, match=r"There is no family 'poison'. Did you mean 'poisson'"):
        RidgeEB(family="poison").fit(X, y)
    with pytest.raises(ValueError, match=r"must be the name of a family or a likelihood.*not 3"):
        RidgeEB(family=3).fit(X, y)
    with pytest.raises(ValueError, match=r"needs counts.*in row 0"):
        RidgeEB(family="poisson").fit(X, y)
    with pytest.raises(ValueError, match=r"number of trials of each row: family=Binomial"):
        RidgeEB(family="binomial").fit(X, y)


def test_a_constant_target_among_others_costs_nothing_but_itself():
    X, Y = data(V=4)
    Y[:, 2] = 5.0
    with pytest.warns(UserWarning, match="Target 2 is constant"):
        model = RidgeEB().fit(X, Y)
    np.testing.assert_array_equal(model.coef_[2], 0)
    np.testing.assert_allclose(model.intercept_[2], 5.0)
    assert np.isnan(model.log_evidence_[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        others = RidgeEB().fit(X, Y[:, [0, 1, 3]])
    np.testing.assert_allclose(model.coef_[[0, 1, 3]], others.coef_, rtol=1e-9)
    np.testing.assert_allclose(model.log_evidence_[[0, 1, 3]], others.log_evidence_, rtol=1e-12)
