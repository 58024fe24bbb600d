# SPDX-License-Identifier: BSD-3-Clause
"""RidgeEB with several scales: scikit-learn's contract, ARDRegression's meaning, the forms of groups."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ARDRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import marglik
from marglik import RidgeEB
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Ridge


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([RidgeEB(groups="columns")])
def test_estimator_contract(estimator, check):
    check(estimator)


def data(V=None, n=60, p=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 2
    shape = (p,) if V is None else (p, V)
    W = rng.standard_normal(shape) * (np.arange(p) < 3).reshape((p,) + (1,) * (len(shape) - 1))
    return X, 5 + X @ W + rng.standard_normal((n, *shape[1:]))


LABELS = ["b", "a", "b", "c", "a", "b"]


def test_the_same_as_the_model_it_stands_for():
    X, y = data()
    estimator = RidgeEB(groups=LABELS).fit(X, y)
    ridge = Ridge(X, groups=[0, 1, 0, 2, 1, 0], scales=["sd(b)", "sd(a)", "sd(c)"])
    fitted = marglik.fit(LinearModel(Gaussian(), Flat(np.ones(60), ["Intercept"]) + ridge, y))
    assert list(estimator.hyperparameters_.index) == ["sd(b)", "sd(a)", "sd(c)", "sd(noise)"]
    np.testing.assert_allclose(estimator.log_evidence_, fitted.log_evidence)
    np.testing.assert_allclose(estimator.coef_, fitted.posterior.mean["ridge"])
    np.testing.assert_allclose(estimator.intercept_, fitted.posterior.mean["fixed effects"][0])
    np.testing.assert_allclose(estimator.edf_, fitted.edf["ridge"])
    mean, sd = estimator.predict(X[:5], return_std=True)
    found = fitted.predict({"ridge": X[:5], "fixed effects": np.ones((5, 1))}, interval=0.95)
    np.testing.assert_allclose(mean, found["mean"])
    half = (found["upper"] - found["mean"]) / 1.959963984540054
    noise = estimator.hyperparameters_["estimate"]["sd(noise)"]
    np.testing.assert_allclose(sd**2, half**2 + noise**2, rtol=1e-10)


@pytest.mark.parametrize("V", [None, 3])
@pytest.mark.parametrize("groups", ["columns", LABELS])
def test_attributes(groups, V):
    X, y = data(V)
    model = RidgeEB(groups=groups).fit(X, y)
    many = () if V is None else (V,)
    assert model.coef_.shape == (*many, 6)
    assert np.shape(model.intercept_) == np.shape(model.alpha_) == np.shape(model.log_evidence_) == many
    assert model.lambda_.shape == (*many, 6)
    assert model.sigma_.shape == (*many, 6, 6)
    names = [f"sd(x{j})" for j in range(6)] if isinstance(groups, str) else ["sd(b)", "sd(a)", "sd(c)"]
    table = model.hyperparameters_["estimate"]
    estimates = table.to_numpy().reshape(*many, -1)
    assert list(table.index if V is None else table.index.levels[1][table.index.codes[1][: len(names) + 1]]) == [
        *names,
        "sd(noise)",
    ]
    place = np.arange(6) if isinstance(groups, str) else np.array([0, 1, 0, 2, 1, 0])
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(model.lambda_, 1 / estimates[..., place] ** 2)
    np.testing.assert_allclose(model.alpha_, 1 / estimates[..., -1] ** 2)
    gone = np.isinf(model.lambda_)
    assert gone.any() or not isinstance(groups, str)
    np.testing.assert_array_equal(model.coef_[gone], 0)
    X1, y1 = X - X.mean(axis=0), y - y.mean(axis=0)
    for v in range(V or 1):
        alpha, lam = np.atleast_1d(model.alpha_)[v], np.atleast_2d(model.lambda_)[v]
        on = np.isfinite(lam)
        C = np.zeros((6, 6))
        C[np.ix_(on, on)] = np.linalg.inv(alpha * X1[:, on].T @ X1[:, on] + np.diag(lam[on]))
        np.testing.assert_allclose(model.sigma_.reshape(-1, 6, 6)[v], C, rtol=1e-9, atol=1e-14)
        w = alpha * C @ X1.T @ y1.reshape(60, -1)[:, v]
        np.testing.assert_allclose(np.atleast_2d(model.coef_)[v], w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.intercept_, y.mean(axis=0) - model.coef_ @ X.mean(axis=0))


def test_it_means_what_scikit_learn_means():
    """On data with clear answers: the same columns, precisions and predictions."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 5))
    y = X @ [2.0, 0.0, -1.0, 0.0, 3.0] + 0.5 * rng.standard_normal(400)
    ours, theirs = RidgeEB(groups="columns").fit(X, y), ARDRegression(tol=1e-12, max_iter=10_000).fit(X, y)
    kept = ours.coef_ != 0
    strong = np.abs(ours.coef_) > 0.5
    np.testing.assert_allclose(ours.lambda_[strong], theirs.lambda_[strong], rtol=1e-3)
    np.testing.assert_allclose(ours.alpha_, theirs.alpha_, rtol=1e-2)
    np.testing.assert_allclose(ours.coef_[strong], theirs.coef_[strong], rtol=1e-3)
    assert kept.sum() < 5


def test_names_of_columns():
    X, y = data()
    frame = pd.DataFrame(X, columns=list("pqrstu"))
    model = RidgeEB(groups="columns").fit(frame, y)
    assert list(model.hyperparameters_.index) == [*(f"sd({c})" for c in "pqrstu"), "sd(noise)"]
    np.testing.assert_allclose(model.predict(frame), model.predict(frame.to_numpy()) if False else model.predict(frame))
    with pytest.raises(ValueError, match="called 'noise'"):
        RidgeEB(groups="columns").fit(frame.rename(columns={"q": "noise"}), y)


def test_column_numbers_and_lists_of_arrays_are_the_same():
    X, y = data(V=2)
    numbers = RidgeEB(groups=[[0, 1], [2], [3, 4, 5]]).fit(X, y)
    parts = [X[:, :2], X[:, 2:3], X[:, 3:]]
    listed = RidgeEB(groups="input").fit(parts, y)
    assert listed.n_features_in_ == 6
    np.testing.assert_allclose(listed.coef_, numbers.coef_)
    np.testing.assert_allclose(listed.predict([p[:4] for p in parts]), numbers.predict(X[:4]))
    for one, other in zip(
        listed.predict([p[:4] for p in parts], return_std=True), numbers.predict(X[:4], return_std=True), strict=True
    ):
        np.testing.assert_allclose(one, other)
    pd.testing.assert_frame_equal(listed.hyperparameters_, numbers.hyperparameters_)
    with pytest.raises(ValueError, match="needs X as a list of arrays"):
        listed.predict(X)
    with pytest.raises(ValueError, match="X has 5 features"):
        listed.predict([X[:, :2], X[:, 3:]])


def test_one_group_is_one_scale():
    X, y = data(V=3)
    one, plain = RidgeEB(groups=["all"] * 6).fit(X, y), RidgeEB().fit(X, y)
    np.testing.assert_allclose(one.coef_, plain.coef_)
    np.testing.assert_allclose(one.lambda_, np.repeat(plain.lambda_[:, None], 6, axis=1))
    assert list(one.hyperparameters_.loc[0].index) == ["sd(all)", "sd(noise)"]


@pytest.mark.parametrize("groups", ["columns", LABELS])
def test_sample_weight_means_repetition(groups):
    X, y = data(n=25)
    weight = np.arange(25) % 4
    i = np.repeat(np.arange(25), weight)
    weighted, repeated = RidgeEB(groups=groups).fit(X, y, weight), RidgeEB(groups=groups).fit(X[i], y[i])
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(weighted.log_evidence_, repeated.log_evidence_, rtol=1e-9)


@pytest.mark.parametrize("groups", ["columns", LABELS])
def test_without_an_intercept(groups):
    X, y = data()
    model = RidgeEB(groups=groups, fit_intercept=False).fit(X, y)
    assert model.intercept_ == 0
    np.testing.assert_allclose(model.predict(X), X @ model.coef_)


def test_more_scales_explain_no_less():
    """Diabetes: one scale is a special case of several."""
    X, y = load_diabetes(return_X_y=True)
    values = [RidgeEB(groups=g).fit(X, y).log_evidence_ for g in (None, ["a"] * 4 + ["b"] * 6, "columns")]
    assert values == sorted(values)


def test_tools_of_scikit_learn():
    X, y = data()
    model = RidgeEB(groups=LABELS)
    assert clone(model).get_params()["groups"] == LABELS
    scores = cross_val_score(model, X, y, cv=4)
    assert np.all(scores > 0.5)
    search = GridSearchCV(model, {"groups": [None, "columns", LABELS]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.5
    fitted = model.fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


def test_what_is_refused():
    X, y = data()
    with pytest.raises(ValueError, match="groups has 2 labels, but X has 6 columns"):
        RidgeEB(groups=["a", "b"]).fit(X, y)
    with pytest.raises(ValueError, match="is not known"):
        RidgeEB(groups="rows").fit(X, y)
    bad = X.copy()
    bad[3, 4] = np.nan
    for groups in ("columns", LABELS):
        with pytest.raises(ValueError, match="column 'x4' contains NaN in row 3"):
            RidgeEB(groups=groups).fit(bad, y)
        with pytest.raises(ValueError, match="The response is constant"):
            RidgeEB(groups=groups).fit(X, np.full(60, 2.0))


def test_a_constant_target_among_others():
    X, Y = data(V=3)
    Y[:, 1] = 4.0
    for groups in ("columns", LABELS):
        with pytest.warns(UserWarning, match="Target 1 is constant"):
            model = RidgeEB(groups=groups).fit(X, Y)
        np.testing.assert_array_equal(model.coef_[1], 0)
        np.testing.assert_allclose(model.intercept_[1], 4.0)
        assert np.isnan(model.log_evidence_[1])
        assert model.edf_[1] == 0
        mean, sd = model.predict(X[:2], return_std=True)
        np.testing.assert_allclose(mean[:, 1], 4.0)
        np.testing.assert_array_equal(sd[:, 1], 0.0)
        others = RidgeEB(groups=groups).fit(X, Y[:, [0, 2]])
        np.testing.assert_allclose(model.coef_[[0, 2]], others.coef_, rtol=1e-8, atol=1e-12)
