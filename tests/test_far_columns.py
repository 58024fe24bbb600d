# SPDX-License-Identifier: BSD-3-Clause
"""Columns far from zero: with an intercept that is integrated, where x has its zero changes the intercept alone."""

import numpy as np
import pytest

import marglik
from marglik import LogisticRidgeEB, RidgeEB
from marglik.columns import centred
from marglik.fitting import fit_model
from marglik.likelihoods import Poisson
from marglik.model import LinearModel
from marglik.posterior.base import NewRows
from marglik.priors import Flat, Ridge

FAMILIES = ["bernoulli", "poisson", "gamma", "negative_binomial", "beta", "student_t"]


def responses(rng, eta):
    n, share = len(eta), 1 / (1 + np.exp(-eta))
    return {
        "bernoulli": (rng.random(n) < share).astype(int),
        "poisson": rng.poisson(np.exp(eta)),
        "gamma": np.exp(eta) * rng.gamma(2, 0.5, n),
        "negative_binomial": rng.poisson(np.exp(eta) * rng.gamma(1, 1, n)),
        "beta": rng.beta(3 * share, 3 - 3 * share),
        "student_t": eta + 0.3 * rng.standard_t(3, n),
    }


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 4))
    return X, responses(rng, X @ [0.8, -0.4, 0.0, 0.0])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_estimator_with_an_intercept(data, family):
    X, y = data[0], data[1][family]
    here, new = RidgeEB(family=family).fit(X, y), X[:5] + 0.3
    mean, sd = here.predict(new, return_std=True)
    for c in (1e4, -1e7):
        there = RidgeEB(family=family).fit(X + c, y)
        assert here.converged_
        assert there.converged_
        np.testing.assert_allclose(there.log_evidence_, here.log_evidence_, rtol=0, atol=1e-16 * c**2 + 1e-9)
        np.testing.assert_allclose(
            there.hyperparameters_["estimate"], here.hyperparameters_["estimate"], rtol=1e-6, atol=0
        )
        np.testing.assert_allclose(there.coef_, here.coef_, rtol=0, atol=1e-6)
        np.testing.assert_allclose(there.intercept_, here.intercept_ - c * here.coef_.sum(), rtol=1e-6)
        moved = there.predict(new + c, return_std=True)
        np.testing.assert_allclose(moved[0], mean, rtol=1e-6)
        np.testing.assert_allclose(moved[1], sd, rtol=1e-5)


def test_a_classifier_and_formulas(data):
    X, y = data[0], data[1]["bernoulli"]
    here, there = (LogisticRidgeEB().fit(X + c, y) for c in (0.0, 1e6))
    np.testing.assert_allclose(there.predict_proba(X + 1e6), here.predict_proba(X), rtol=1e-7)
    table = {"y": y, "g": np.arange(80) // 8, **{f"x{i}": X[:, i] for i in range(4)}}
    for formula in ("y ~ x0 + ard(x1, x2) + ridge(x0, x3)", "y ~ ridge(x0, x1, x2, x3) + (1 | g)"):
        here, there = (
            marglik.fit(formula, {k: v + c * k.startswith("x") for k, v in table.items()}, family="bernoulli")
            for c in (0.0, 1e6)
        )
        np.testing.assert_allclose(there.log_evidence, here.log_evidence, rtol=1e-9)
        np.testing.assert_allclose(there.hyperparameters["estimate"], here.hyperparameters["estimate"], rtol=1e-5)
        shifted = {k: v + 1e6 * k.startswith("x") for k, v in table.items()}
        np.testing.assert_allclose(there.predict(shifted, interval=0.9), here.predict(table, interval=0.9), rtol=1e-6)


def test_the_posterior_is_that_of_the_columns_as_they_were_given(data):
    """Mean, covariance, draws and Occam's factors are those of the model without centring, from its own H."""
    X, y = data[0] + [100.0, 0.0, -40.0, 3.0], data[1]["poisson"]
    fit = fit_model(LinearModel(Poisson(), Flat(np.ones(80), ["Intercept"]) + Ridge(X), y))
    s = fit.hyperparameters["estimate"].iloc[0]
    A = np.column_stack([np.ones(80), X])
    beta = np.concatenate([fit.posterior.mean["fixed effects"], fit.posterior.mean["ridge"]])
    mu = np.exp(A @ beta)
    slope = A.T @ (y - mu) - np.append(0, beta[1:] / s**2)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    H = A.T @ (A * mu[:, None]) + np.diag([0.0, *np.full(4, s**-2)])
    C = np.linalg.inv(H)
    np.testing.assert_allclose(fit.posterior.flat_covariance, C[:1, :1], rtol=1e-8)
    np.testing.assert_allclose(fit.posterior.sd["ridge"], np.sqrt(np.diag(C)[1:]), rtol=1e-8)
    draws = fit.posterior.sample(40_000, seed=1)
    joined = np.column_stack([draws["fixed effects"], draws["ridge"]]) - beta
    root = np.linalg.cholesky(H)
    np.testing.assert_allclose(np.cov((joined @ root).T), np.eye(5), atol=0.03)
    new = A[:3] + np.append(0, [0.5, -0.5, 0.5, 0.5])
    sd = np.sqrt(np.einsum("ij,jk,ik->i", new, C, new))
    names = {"fixed effects": new[:, :1], "ridge": new[:, 1:]}
    np.testing.assert_allclose(np.sqrt(variance_of(fit, names)), sd, rtol=1e-7)
    alone = {"ridge": new[:, 1:]}
    sd = np.sqrt(np.einsum("ij,jk,ik->i", new[:, 1:], C[1:, 1:], new[:, 1:]))
    np.testing.assert_allclose(np.sqrt(variance_of(fit, alone)), sd, rtol=1e-7)
    own = np.linalg.slogdet(s**2 * H[1:, 1:])[1]
    occam = fit.occam["nats"]
    np.testing.assert_allclose(occam["ridge"], -(beta[1:] @ beta[1:]) / s**2 / 2 - own / 2, rtol=1e-9)
    np.testing.assert_allclose(occam.sum(), fit.log_evidence, rtol=1e-12)


def variance_of(fit, columns):
    return fit.posterior.linear_predictor(NewRows(columns, {}, np.zeros(3)))[1]


def test_only_columns_far_from_zero_are_centred():
    rng = np.random.default_rng(1)
    X, Q = rng.standard_normal((50, 3)), np.linalg.qr(rng.standard_normal((50, 2)))[0] * np.sqrt(50)
    same, A = centred(Q, X)
    assert same is X
    assert not A.any()
    far = X + Q @ [[1e3, 0.0, 0.0], [0.0, 0.0, 50.0]]
    found, A = centred(Q, far)
    np.testing.assert_allclose(Q @ A + found, far, rtol=1e-14)
    np.testing.assert_allclose(Q.T @ found, 0, atol=1e-9)
    same, A = centred(np.zeros((50, 0)), far)
    assert same is far
    assert A.shape == (0, 3)
