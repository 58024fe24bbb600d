# SPDX-License-Identifier: BSD-3-Clause
"""The evidence of Gaussian processes by the covariance of the rows: against the projection's, and its maxima."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

import marglik
from marglik.evidence import kernels, mixed
from marglik.gaussian.projection import Projection
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.newrows import own_rows
from marglik.posterior.mixed import MixedPosterior
from marglik.posterior.prediction import linear_predictor
from marglik.posterior.rows import RowsPosterior
from marglik.priors import Flat, GaussianProcess, Ridge

rng = np.random.default_rng(5)
X = rng.uniform(0, 4, (60, 2))
y = np.sin(X[:, 0]) + 0.3 * rng.standard_normal(60) + 3
KERNELS = {
    "RBF()": [0.8, 1.3],
    "RBF(length_scale=(1.0, 1.0))": [0.8, 1.3, 0.7],
    "Matern(nu=0.5)": [0.8, 1.3],
    "Matern(nu=1.5)": [0.8, 1.3],
    "Matern(length_scale=(1.0, 1.0), nu=2.5)": [0.8, 1.3, 0.7],
    "RationalQuadratic()": [0.8, 1.5, 0.7],
}


def beside_others(kernel, reml=True):
    prior = Flat(np.column_stack([np.ones(60), X[:, 1]])) + GaussianProcess(X, kernel) + Ridge(X**2, label="squares")
    return LinearModel(Gaussian(), prior, y, reml=reml)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_value_and_gradient_are_the_projections(kernel, reml):
    model, theta = beside_others(kernel, reml), np.array([*KERNELS[kernel], 0.2, 0.3])
    assert model.dense_rows
    own, other = kernels.evidence(model, theta), mixed.evidence(model, theta)
    np.testing.assert_allclose(own.log_value, other.log_value, rtol=0, atol=1e-10)
    np.testing.assert_allclose(own.gradient, other.gradient, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reml", [True, False])
def test_posterior_is_the_projections(reml):
    model, theta = beside_others("Matern(nu=1.5)", reml), np.array([0.8, 1.3, 0.2, 0.3])
    own, other = RowsPosterior(kernels.At.of(model, theta)), MixedPosterior(Projection.at(model, theta))
    for label, mean in other.mean.items():
        np.testing.assert_allclose(own.mean[label], mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(own.flat_covariance, other.flat_covariance, rtol=0, atol=1e-10)
    for wanted in ({"gp"}, {"gp", "squares"}, {"gp", "squares", "fixed"}):
        rows = own_rows(model, wanted)
        for a, b in zip(
            linear_predictor(model, theta, own, rows), linear_predictor(model, theta, other, rows), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)


def test_maximum_from_some_of_the_rows_is_that_of_all():
    points = rng.uniform(0, 4, (260, 2))
    response = np.sin(2 * points[:, 0]) * points[:, 1] + 0.3 * rng.standard_normal(260)
    assert len(points) > kernels.FEW
    fit = marglik.fit(LinearModel(Gaussian(), GaussianProcess(points), response))
    other = GaussianProcessRegressor(ConstantKernel() * RBF() + WhiteKernel(), alpha=0.0).fit(points, response)
    np.testing.assert_allclose(fit.log_evidence, other.log_marginal_likelihood_value_, rtol=0, atol=1e-6)
    assert fit.converged


def two_maxima():
    """Seven points: a short length scale and little noise, or a long one and much (Rasmussen & Williams, fig. 5.5)."""
    x = np.array([-5.9, -1.7, 0.2, 1.5, 4.2, 6.2, 6.7])
    return x, np.array([-0.42, -1.61, 0.29, 1.45, -0.26, 0.86, 1.54])


def test_several_maxima_are_listed_the_best_first():
    x, response = two_maxima()
    fit = marglik.fit(LinearModel(Gaussian(), GaussianProcess(x), response))
    assert len(fit.optima) == 2
    values = fit.optima["log_evidence"].to_numpy()
    assert values[0] > values[1]
    np.testing.assert_allclose(values[0], fit.log_evidence, rtol=0, atol=1e-10)
    for _, row in fit.optima.iterrows():
        e = kernels.evidence(fit.model, row.to_numpy()[:-1])
        np.testing.assert_allclose(e.gradient * row.to_numpy()[:-1], 0, rtol=0, atol=1e-4)
    assert "fit.optima" in fit.check().verdict


def test_a_length_scale_without_end_is_a_limit():
    """posteriordb's gp_regr: the supremum is that of a constant function, of which a closed form is known."""
    response = np.array(
        [4.75906, 1.59423, 2.99548, 5.27501, 1.66472, 2.24347, 2.8914, 4.08681, 4.60588, 0.802364, 3.92136]
    )
    fit = marglik.fit(LinearModel(Gaussian(), GaussianProcess(np.arange(-10.0, 11.0, 2.0)), response))
    np.testing.assert_allclose(fit.log_evidence, -21.843918816, rtol=0, atol=1e-7)
    estimate = fit.hyperparameters["estimate"]
    np.testing.assert_allclose(estimate[["sd(gp)", "sd(noise)"]], [3.1358920, np.sqrt(2.1744082)], rtol=1e-5)
    assert np.isinf(estimate["length_scale(gp)"])
    assert fit.hyperparameters["at_boundary"]["length_scale(gp)"]
