# SPDX-License-Identifier: BSD-3-Clause
"""LogisticRidgeEB: scikit-learn's contract, the model it stands for, calibration, and bad input."""

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
