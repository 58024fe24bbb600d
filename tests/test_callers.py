# SPDX-License-Identifier: BSD-3-Clause
"""Warnings point at the line that called marglik."""

import numpy as np
import pytest

import marglik
from marglik import GaussianProcessEB, LogisticRidgeEB, RidgeEB
from marglik.likelihoods import Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, Ridge

x = np.linspace(0, 1, 30)
X = np.column_stack([x, x**2])


def extrapolated():
    table = {"x": x, "y": np.sin(6 * x) + np.cos(40 * x) / 4}
    marglik.fit("y ~ s(x)", table).predict({"x": [0.5, 1.5]})


def constant_target():
    RidgeEB().fit(X, np.column_stack([np.sin(9 * x), np.ones(30)]))


def constant_counts():
    prior = Flat(np.ones(30), ["Intercept"]) + Ridge(X)
    marglik.fit(LinearModel(Poisson(), prior, np.column_stack([np.arange(30) % 4, np.zeros(30)])))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (extrapolated, "extrapolated"),
        (constant_target, "constant"),
        (constant_counts, "could not be learned"),
        (lambda: LogisticRidgeEB().fit(X, x > 0.5), "without error"),
        (lambda: GaussianProcessEB().fit(x[:, None], np.sin(6 * x)), "held at"),
    ],
)
def test_the_callers_line(call, match):
    with pytest.warns(UserWarning, match=match) as caught:
        call()
    assert caught[0].filename == __file__
