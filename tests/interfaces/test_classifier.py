# SPDX-License-Identifier: BSD-3-Clause
"""LogisticRidgeEB: scikit-learn's contract, the model it stands for, calibration, and bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from sklearn.datasets import load_iris
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

import marglik
from marglik import Flat, LinearModel, LogisticRidgeEB, Ridge, RidgeEB
from marglik.interfaces.classifier import logistic_normal
from marglik.likelihoods import Bernoulli


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([LogisticRidgeEB(), LogisticRidgeEB(fit_intercept=False)])
def test_the_contract_of_estimators(estimator, check):
    check(estimator)


def data(n=150, p=5, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 0.5
    w = scale * rng.standard_normal(p)
    return X, (rng.random(n) < expit(X @ w - 0.3)).astype(int), w


@pytest.mark.parametrize("sd", [0.0, 1e-3, 0.3, 1.0, 1.7, 1.999, 2.0, 2.5, 6.0, 40.0, 300.0])
def test_the_average_of_a_logistic_curve(sd):
    """Against adaptive quadrature; below sd = 2 also relatively, far out in the tail."""
    for mean in (-30.0, -9.0, -2.0, -0.1, 0.0, 0.7, 4.0, 20.0):

        def f(z, mean=mean):
            return expit(mean + sd * z) * norm.pdf(z)

        steps = [z for z in ((d - mean) / max(sd, 0.1) for d in (-6, 0, 6)) if -12 < z < 12]
        truth = quad(f, -12, 13, points=[0.0, sd % 12, *steps], epsabs=1e-15, epsrel=1e-13, limit=1000)[0]
        found = logistic_normal(np.array(mean), np.array(sd))
        np.testing.assert_allclose(found, truth, rtol=1e-8 if sd < 2 else 0, atol=3e-9 * (sd >= 2))


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1, 1], "columns"])
def test_it_is_a_linear_model_with_yes_and_no(groups):
    X, y, _ = data()
    place = {None: None, "columns": np.arange(5)}[groups] if not isinstance(groups, list) else np.array(groups)
    own = LogisticRidgeEB(groups=groups).fit(X, y)
    scales = None if place is None else [f"sd({i})" for i in range(place.max() + 1)]
    ridge = Ridge(X) if place is None else Ridge(X, groups=place, scales=scales)
    fit = marglik.fit(LinearModel(Bernoulli(), Flat(np.ones(len(y)), ["Intercept"]) + ridge, y.astype(float)))
    np.testing.assert_allclose(own.log_evidence_, fit.log_evidence, rtol=1e-9)
    np.testing.assert_allclose(own.coef_[0], fit.posterior.mean["ridge"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.intercept_, fit.fixed_effects["estimate"], rtol=1e-6)
    np.testing.assert_allclose(own.hyperparameters_["estimate"], fit.hyperparameters["estimate"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.edf_, fit.edf["ridge"], rtol=1e-6)
    named = RidgeEB(groups, family="bernoulli").fit(X, y)
    np.testing.assert_allclose(own.coef_[0], named.coef_, rtol=1e-9)
    mean = fit.predict(average=True)
    np.testing.assert_allclose(own.predict_proba(X)[:, 1], mean, rtol=1e-7)
    assert own.converged_


def test_probabilities_are_averages_over_draws_of_the_posterior():
    X, y, _ = data(n=40)
    own = LogisticRidgeEB().fit(X, y)
    new = np.random.default_rng(3).standard_normal((6, 5)) * 3
    draws = own.fit_.posterior.sample(40_000, seed=0)
    p = expit(draws["intercept"] + draws["weights"] @ new.T)
    z = (p.mean(axis=0) - own.predict_proba(new)[:, 1]) / (p.std(axis=0) / np.sqrt(len(p)))
    assert np.abs(z).max() < 4
    np.testing.assert_allclose(expit(own.decision_function(new)), own.predict_proba(new)[:, 1], rtol=1e-12)
    plug_in = new @ own.coef_[0] + own.intercept_
    assert (np.sign(plug_in) == np.sign(own.decision_function(new))).all()
    assert (np.abs(own.decision_function(new)) < np.abs(plug_in)).all()


def test_calibrated_and_better_than_the_plug_in():
    """Many small problems: the mean of y is the mean of p in bins of p, and the log loss is lower than at the mode."""
    p, plug, truth = [], [], []
    for seed in range(40):
        X, y, w = data(n=60, p=12, seed=seed)
        own = LogisticRidgeEB().fit(X, y)
        rng = np.random.default_rng(1000 + seed)
        new = rng.standard_normal((500, 12)) + 0.5
        p.append(own.predict_proba(new)[:, 1])
        plug.append(expit(new @ own.coef_[0] + own.intercept_[0]))
        truth.append(rng.random(500) < expit(new @ w - 0.3))
    p, plug, truth = map(np.concatenate, (p, plug, truth))
    assert log_loss(truth, p) < log_loss(truth, plug) - 0.01
    bins = np.digitize(p, [0.1, 0.3, 0.5, 0.7, 0.9])
    for b in range(6):
        assert abs(truth[bins == b].mean() - p[bins == b].mean()) < 0.04


@pytest.mark.filterwarnings("ignore:The columns tell")
def test_several_classes_one_against_the_rest():
    """The first of iris's classes is told from the others without error, the others are not."""
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    own = LogisticRidgeEB().fit(X, names)
    assert own.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert (own.coef_.shape, own.intercept_.shape, own.log_evidence_.shape) == ((3, 4), (3,), (3,))
    each = [LogisticRidgeEB().fit(X, names == name) for name in own.classes_]
    np.testing.assert_allclose(own.coef_, np.concatenate([one.coef_ for one in each]), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own.log_evidence_, [one.log_evidence_ for one in each], rtol=1e-9)
    p = own.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    ratio = np.column_stack([one.predict_proba(X)[:, 1] for one in each])
    np.testing.assert_allclose(p, ratio / ratio.sum(axis=1, keepdims=True), rtol=1e-6)
    assert (own.predict(X) == own.classes_[own.decision_function(X).argmax(axis=1)]).all()
    assert own.score(X, names) > 0.9
    assert own.hyperparameters_.index.names == ["target", "name"]
    table = own.hyperparameters_
    np.testing.assert_allclose(table.loc[0, "estimate"], 5 / np.sqrt(X.var(axis=0).sum()), rtol=1e-12)
    assert table.loc[0, "se"].isna().all()
    assert (table.loc[[1, 2], "se"] > 0).all()
    assert own.converged_.all()


def test_weights_of_rows_mean_repetition():
    X, y, _ = data()
    counts = np.random.default_rng(5).integers(0, 4, len(X))
    weighted = LogisticRidgeEB().fit(X, y, sample_weight=counts)
    repeated = LogisticRidgeEB().fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-6)
    np.testing.assert_allclose(weighted.log_evidence_, repeated.log_evidence_, rtol=1e-9)


@pytest.mark.parametrize("groups", [None, [0, 1, 1]])
@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_classes_told_apart_without_error(groups, unit):
    """With a flat intercept the evidence has no maximum: this is said, and the scales are held at a width."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3)) * [1, 2, 3]
    y = np.where(X[:, 0] > 0, "high", "low")
    with pytest.warns(UserWarning, match=r"tell 'low' from the rest without error.*standard deviation of 5"):
        own = LogisticRidgeEB(groups).fit(X * unit, y)
    scales = own.hyperparameters_["estimate"].to_numpy()
    shares = [X.var(axis=0).sum()] if groups is None else [X[:, 0].var(), X[:, 1:].var(axis=0).sum()]
    np.testing.assert_allclose(unit * scales, 5 / np.sqrt(len(shares) * np.array(shares)), rtol=1e-10)
    assert own.score(X * unit, y) > 0.95
    assert any("without error" in note for note in own.fit_.notes)
    assert np.isfinite(own.log_evidence_)
    higher = own.fit_.log_evidence_at(dict.fromkeys(own.hyperparameters_.index, 100 * scales.max()))
    assert higher > own.log_evidence_


def test_without_an_intercept_the_scale_of_separated_classes_is_learned():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 1))
    own = LogisticRidgeEB(fit_intercept=False).fit(X, X[:, 0] > 0)
    assert np.isfinite([own.log_evidence_, own.coef_[0, 0]]).all()
    assert own.score(X, X[:, 0] > 0) == 1


def test_no_signal():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((80, 3)), rng.permutation(80) < 20
    own = LogisticRidgeEB().fit(X, y)
    if own.hyperparameters_["at_boundary"].all():
        np.testing.assert_array_equal(own.coef_, 0)
    np.testing.assert_allclose(own.predict_proba(X)[:, 1].mean(), 0.25, atol=0.02)


def test_bad_input():
    X, y, _ = data()
    with pytest.raises(ValueError, match=r"holds one class only: 1\.0\. Check y\."):
        LogisticRidgeEB().fit(X, np.ones(len(y)))
    with pytest.warns(UserWarning, match="Every column of X is constant") as told:
        assert not LogisticRidgeEB().fit(np.ones_like(X), y).coef_.any()
    assert not any("fixed=" in str(warning.message) for warning in told)
    with pytest.raises(ValueError, match="continuous"):
        LogisticRidgeEB().fit(X, X[:, 0])
    bad = X.copy()
    bad[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"'x2' contains NaN in row 7"):
        LogisticRidgeEB().fit(bad, y)
    frame = pd.DataFrame(bad, columns=list("abcde"))
    with pytest.raises(ValueError, match=r"'c' contains NaN in row 7"):
        LogisticRidgeEB().fit(frame, y)
    with pytest.raises(ValueError, match="groups has 2 labels, but X has 5 columns"):
        LogisticRidgeEB(groups=["a", "b"]).fit(X, y)


def test_a_copy_has_the_same_evidence():
    X, y, _ = data()
    model = LogisticRidgeEB().fit(X, y)
    known = model.log_evidence_
    copied = pickle.loads(pickle.dumps(model))
    assert copied.log_evidence_ == known
    np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
